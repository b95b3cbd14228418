"""What every detector gives for a batch."""

from typing import NamedTuple

from jaxtyping import Array, Float


class RawScores(NamedTuple):
    """Raw scores, float32, at least 0, in the detector's own unit; higher is more anomalous."""

    image_score: Float[Array, " n"]
    anomaly_map: Float[Array, "n h w"]
