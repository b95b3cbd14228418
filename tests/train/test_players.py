"""Several players in one step: each moves its own networks, by its own optimizer, against what the others are now."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from train.loop import TrainState, initial_optimizers, make_train_steps
from train.players import Phase, Player, all_players, batches_per_step, phase_at, turns_of


class Pair(nnx.Module):
    """Two numbers, and a count of how often each loss looked at them."""

    def __init__(self):
        self.a, self.b = nnx.Dict(w=nnx.Param(jnp.array(1.0))), nnx.Dict(w=nnx.Param(jnp.array(2.0)))
        self.looked = nnx.BatchStat(jnp.zeros(()))


def of_a(model, inputs, key, config):
    model.looked[...] = model.looked[...] + 1
    loss = (model.a.w[...] - model.b.w[...] * inputs) ** 2
    return loss, {"seen": inputs}


def of_b(model, inputs, key, config):
    model.looked[...] = model.looked[...] + 100
    return (model.a.w[...] * model.b.w[...] - inputs) ** 2, {}


A = Player("a", ("a",), of_a, lambda config: optax.sgd(0.1, momentum=0.9), updates=2)
B = Player("b", ("b",), of_b, lambda config: optax.adam(0.05))
ALONE = Player("b_alone", ("b",), of_b, lambda config: optax.sgd(0.5))
PHASES = (Phase(3, (A, B)), Phase(2, (ALONE,)))


def start():
    model = Pair()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    opt_state = initial_optimizers(turns_of(all_players(PHASES), None, graph), params)
    plateau = optax.contrib.reduce_on_plateau().init(params)
    return graph, TrainState(jnp.zeros((), jnp.int32), params, rest, opt_state, plateau, jax.random.key(0))


def steps(graph, phase, unroll):
    return make_train_steps(turns_of(phase.players, None, graph), unroll=unroll, batches_per_step=2)


BATCHES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)  # three steps of two batches of two


def by_hand():
    """The first phase in plain NumPy."""
    a, b, momentum, m, v, losses = 1.0, 2.0, 0.0, 0.0, 0.0, []
    for number, batch in enumerate(np.asarray(BATCHES, float)):
        of_step = []
        for part in (batch[:2], batch[2:]):
            of_step.append(np.mean((a - b * part) ** 2))
            momentum = np.mean(2 * (a - b * part)) + 0.9 * momentum
            a -= 0.1 * momentum
        losses.append((np.mean(of_step), np.mean((a * b - batch[:2]) ** 2)))
        gradient = np.mean(2 * (a * b - batch[:2]) * a)  # against the new a
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        b -= 0.05 * (m / (1 - 0.9 ** (number + 1))) / (np.sqrt(v / (1 - 0.999 ** (number + 1))) + 1e-8)
    return a, b, losses


@pytest.mark.parametrize("unroll", [True, False])
def test_a_step_is_what_it_is_by_hand(unroll):
    graph, state = start()
    state, metrics = steps(graph, PHASES[0], unroll)(state, BATCHES, None)
    a, b, losses = by_hand()
    np.testing.assert_allclose([state.params["a"]["w"][...], state.params["b"]["w"][...]], [a, b], rtol=1e-5)
    np.testing.assert_allclose(np.stack([metrics["a_loss"], metrics["b_loss"]], axis=1), losses, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.sum(losses, axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics["seen"], BATCHES.mean(axis=1), rtol=1e-5)
    assert int(state.step) == 3
    assert float(state.rest["looked"][...]) == 3 * (2 + 100)  # what a loss leaves behind reaches the next one


def test_another_phase_moves_its_own_networks_and_leaves_the_other_optimizers_alone():
    graph, state = start()
    state, _ = steps(graph, PHASES[0], True)(state, BATCHES, None)
    before = jax.tree.map(jnp.copy, (state.params, state.opt_state))
    state, metrics = steps(graph, PHASES[1], True)(state, BATCHES, None)
    assert set(state.opt_state) == {"a", "b", "b_alone"}
    np.testing.assert_array_equal(state.params["a"]["w"][...], before[0]["a"]["w"][...])
    assert float(state.params["b"]["w"][...]) != float(before[0]["b"]["w"][...])
    for name in ("a", "b"):
        jax.tree.map(np.testing.assert_array_equal, state.opt_state[name], before[1][name])
    assert set(metrics) == {"loss", "b_alone_loss"}


def test_phases_follow_each_other_and_the_busiest_player_sets_the_batches():
    assert [phase_at(PHASES, epoch) for epoch in (0, 2, 3, 4, 9)] == [PHASES[i] for i in (0, 0, 1, 1, 1)]
    assert batches_per_step(PHASES) == 2
    assert [player.name for player in all_players(PHASES)] == ["a", "b", "b_alone"]
