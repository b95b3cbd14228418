"""What the training loop needs of anything that it trains: a detector or a generator."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.config import TrainingConfig
from train.networks import Network
from train.players import Phase
from train.section import Section

PerImage = Float[Array, " n"]


@dataclass(frozen=True, kw_only=True)
class System:
    """One published method, as it is trained.

    "inputs" are what a step is given: any tree of arrays whose first axis is the image's.
    """

    name: str
    schema: type[TrainingConfig]
    monitor: str  # a validation metric, larger is better; it picks the best checkpoint
    monitor_unit: str
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    phases: Callable[[Any], tuple[Phase, ...]]  # config -> who is trained, and how long
    # (model in evaluation mode, held-out inputs, key, config) -> metrics per image; holds `monitor`
    validate: Callable[[Any, Any, PRNGKeyArray, Any], dict[str, PerImage]]
    # (model, () -> batches of training inputs): statistics that the model keeps, taken once before the first step
    measure: Callable[[Any, Callable[[], Iterable[Any]]], None] | None = None
    # Into how many parts a batch is cut for its gradient; more than 1 only where images do not meet in the network
    micro_batches: Callable[[Any], int] = lambda config: 1
    average_decay: Callable[[Any], float] = lambda config: 0.0  # of the parameters' moving average; 0: none is kept
    average_parts: tuple[str, ...] = ()  # attributes of the model that are averaged; (): all of them
    checkpoint: Callable[[Any], Literal["best", "last"]] = lambda config: "best"  # which one is the run's result
    # (an epoch's figures, config) -> what a person should know of them, a sentence each
    watch: Callable[[Mapping[str, float], Any], Sequence[str]] = lambda figures, config: ()
    lowers_memory: str = "Set a smaller batch_size"  # what to do where a device has too little
    # what it adds to the report of a run
    sections: Callable[[Any], Sequence[Section]] = lambda run: ()
    # networks of a run that `export graphs` writes one by one
    networks: Callable[[Any], Sequence[Network]] = lambda run: ()
