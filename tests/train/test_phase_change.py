"""Where one phase of a training ends and the next begins: what it starts from, what it sees, and a kill in between."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpointed import last_state
from flax import nnx

from train.config import TrainingConfig
from train.epochs import Material, TrainingDiverged, train_epochs
from train.inputs import TrainingInputs
from train.memory import OutOfMemory
from train.players import Phase, Player, first_epochs
from train.system import System

CONFIG = TrainingConfig(epochs=4, steps_per_epoch=3, batch_size=2, schedule="constant", learning_rate=0.1)
SEEN = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)


class Numbers(nnx.Module):
    def __init__(self):
        self.first, self.second = nnx.Param(jnp.zeros(2)), nnx.Param(jnp.zeros(2))


def of_first(model, inputs, key, config):
    return jnp.square(model.first[...] - inputs["a"] - jax.random.normal(key, (2,))).sum(axis=-1), {}


def of_second(model, inputs, key, config):
    assert set(inputs) == {"b"}  # what this phase sees
    return 1000 * jnp.square(model.second[...] - inputs["b"]).sum(axis=-1), {}


def copied(model) -> None:
    model.second[...] = model.first[...]


def phases(config):
    first = Player("first", ("first",), of_first, lambda config: optax.adam(config.learning_rate))
    then = Player("second", ("second",), of_second, lambda config: optax.sgd(1e-6))
    return (
        Phase(2, (first,), sees=lambda inputs: {"a": inputs}),
        Phase(2, (then,), sees=lambda inputs: {"b": inputs}, start=copied),
    )


SYSTEM = System(
    name="numbers",
    schema=TrainingConfig,
    monitor="closeness",
    monitor_unit="",
    build=lambda config, rngs: Numbers(),
    phases=phases,
    validate=lambda model, inputs, key, config: {"closeness": -jnp.abs(model.first[...] - inputs).sum(axis=-1)},
    average_decay=lambda config: 0.9,
)


def material(start=None) -> Material:
    def batches(start: int, stop: int):
        for step in range(start, stop):
            yield np.arange(2 * step, 2 * step + 2, dtype=np.int32) % len(SEEN)

    inputs = TrainingInputs(SEEN, lambda index, resident: resident[index], batches, lambda: iter([]))
    return Material(inputs, np.asarray(SEEN), start=start)


def finished(out, system=SYSTEM, **changes):
    train_epochs(system, CONFIG, material, out, **changes)
    return last_state(system, out, CONFIG)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("run") / "run")


def test_a_phase_starts_from_the_average_of_what_the_phase_before_it_gave(tmp_path, state):
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path, replace(SYSTEM, watch=stops_after(2)))
    between = last_state(SYSTEM, tmp_path, CONFIG)
    assert np.abs(between.params["first"][...] - between.average["first"][...]).min() > 0
    np.testing.assert_array_equal(state.params["first"][...], between.average["first"][...])
    np.testing.assert_allclose(state.params["second"][...], between.average["first"][...], atol=0.05)
    assert np.abs(between.params["second"][...]).max() == 0  # until the change, the second stood still


def stops_after(epochs: int):
    seen = []

    def watch(figures, config):
        seen.append(figures)
        if len(seen) == epochs:
            raise KeyboardInterrupt
        return ()

    return watch


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_stopped_in_a_phase_or_between_two_goes_on_with_the_same_bits(tmp_path, state, epochs):
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path, replace(SYSTEM, watch=stops_after(epochs)))
    ours = finished(tmp_path)
    for a, b in zip(*(jax.tree.leaves(s._replace(key=jax.random.key_data(s.key))) for s in (ours, state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_user_brings_is_given_to_a_fresh_model_once(tmp_path):
    given = []

    def brought(model) -> None:
        given.append(np.asarray(model.first[...]))
        model.first[...] = jnp.full(2, 50.0)

    with pytest.raises(KeyboardInterrupt):
        train_epochs(replace(SYSTEM, watch=stops_after(1)), CONFIG, partial(material, brought), tmp_path)
    train_epochs(SYSTEM, CONFIG, partial(material, brought), tmp_path)
    assert len(given) == 1
    assert (last_state(SYSTEM, tmp_path, CONFIG).params["first"][...] > 40).all()


def test_a_phase_is_not_called_diverged_for_a_loss_of_another_kind(state):
    assert int(state.step) == 12  # the second loss is a thousand times the first
    assert first_epochs(phases(CONFIG)) == (0, 2)


def test_a_loss_that_runs_away_within_a_phase_is_divergence(tmp_path):
    def rising(model, inputs, key, config):
        return jnp.exp(-40 * model.second[...].sum()) * jnp.ones(2), {}

    def second(config):
        first, then = phases(config)
        away = Player("second", ("second",), rising, lambda config: optax.sgd(-0.1))
        return first, replace(then, players=(away,), start=None)

    with pytest.raises(TrainingDiverged, match=r"The (mean )?loss of (epoch 4|step \d+) is"):
        finished(tmp_path, replace(SYSTEM, phases=second))


def test_memory_that_a_device_can_not_give_is_said_with_what_to_lower(tmp_path):
    def huge(config, rngs):
        return jnp.zeros((2**20, 2**20, 2**8))

    with pytest.raises(OutOfMemory, match=r"memory does not suffice \(.*\)\. Set fewer numbers\.$"):
        finished(tmp_path, replace(SYSTEM, build=huge, lowers_memory="Set fewer numbers"))
