"""Which frames are worth keeping. Pure functions of the verdict; nothing is drawn from a clock or a generator."""

from hashlib import sha256
from typing import Literal, Protocol

from edge_agent.decision import Verdict
from edge_agent.messages import Model
from edge_agent.spool.settings import UncertainBand

# The folders of the spool: what the model said, which is not what a person would say.
Kind = Literal["good", "bad", "uncertain"]


class Judged(Protocol):
    """A verdict on one frame: a Result, or one view of it."""

    @property
    def camera(self) -> str: ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def image_score(self) -> float | None: ...

    @property
    def threshold(self) -> float: ...

    @property
    def model(self) -> Model: ...


def kind_of(judged: Judged, result_id: str, *, pass_share: float, band: UncertainBand) -> Kind | None:
    """Where a frame belongs; None: it is not kept. A frame that could not be judged teaches nothing."""
    if judged.verdict == "unknown" or judged.image_score is None:
        return None
    if band.low < band.high and band.low <= judged.image_score / judged.threshold <= band.high:
        return "uncertain"
    if judged.verdict == "reject":
        return "bad"
    return "good" if drawn(result_id, pass_share) else None


def drawn(result_id: str, share: float) -> bool:
    """Is this part in a random sample of `share` of all? The same answer for the same id, always."""
    number = int.from_bytes(sha256(result_id.encode()).digest()[:8], "big")
    return number < share * 2**64
