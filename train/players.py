"""Who is trained: one network, or several players with losses and optimizers of their own, phase after phase."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optax
from flax import nnx
from jaxtyping import Array, Float

from train.loop import LossFn, Turn, mean_loss

# (model in training mode, inputs, key, config) -> loss per image, metrics per image
Loss = Callable[..., tuple[Float[Array, " n"], dict[str, Float[Array, " n"]]]]


@dataclass(frozen=True)
class Player:
    """Networks of a model that one loss and one optimizer move, while the model's others stand still."""

    name: str
    parts: tuple[str, ...]  # attributes of the model
    loss: Loss
    optimizer: Callable[[Any], optax.GradientTransformation]
    updates: int = 1  # in a step, each on a batch of its own


@dataclass(frozen=True)
class Phase:
    """A stretch of a training in which these players take turns, in this order, in every step."""

    epochs: int
    players: tuple[Player, ...]
    # What of a step's inputs its losses are given
    sees: Callable[[Any], Any] = lambda inputs: inputs
    # Changes the model in place before the first of its epochs; an averaged model then goes on as its average
    start: Callable[[Any], None] | None = None

    @property
    def batches(self) -> int:
        """That a step uses up."""
        return max(player.updates for player in self.players)


def one_network(loss: Loss, optimizer: Callable[[Any], optax.GradientTransformation], epochs: int) -> tuple[Phase, ...]:
    """The phases of a model that is trained as a whole."""
    return (Phase(epochs, (Player("", (), loss, optimizer),)),)


def first_epochs(phases: Sequence[Phase]) -> tuple[int, ...]:
    """The epoch with which each begins."""
    return tuple(sum(phase.epochs for phase in phases[:number]) for number in range(len(phases)))


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    for phase in phases:
        if epoch < phase.epochs:
            return phase
        epoch -= phase.epochs
    return phases[-1]


def batches_per_step(phases: Sequence[Phase]) -> int:
    """The most that any phase uses; the others leave the rest."""
    return max(phase.batches for phase in phases)


def turns_of(players: Sequence[Player], config: Any, graph: nnx.GraphDef) -> tuple[Turn, ...]:
    return tuple(
        Turn(_loss_fn(player.loss, config, graph), player.optimizer(config), player.name, player.parts, player.updates)
        for player in players
    )


def all_players(phases: Sequence[Phase]) -> tuple[Player, ...]:
    """Each once."""
    return tuple({player.name: player for phase in phases for player in phase.players}.values())


def _loss_fn(loss_of: Loss, config: Any, graph: nnx.GraphDef) -> LossFn:
    def loss_fn(params: nnx.State, rest: nnx.State, inputs: Any, key: Array) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        loss, metrics = mean_loss(*loss_of(model, inputs, key, config))
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), metrics)

    return loss_fn
