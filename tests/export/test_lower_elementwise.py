"""Operations on each element equal JAX's, whatever the stored order of axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from onnx_against_jax import (
    bytes_,
    channels_first,
    check,
    coins,
    drawn,
    few,
    operations,
    positive,
    run_session,
    whole,
    within_one,
)

UNARY = {
    "abs": (lax.abs, drawn),
    "acos": (lax.acos, within_one),
    "acosh": (lambda x: lax.acosh(x + 1), positive),
    "asin": (lax.asin, within_one),
    "asinh": (lax.asinh, drawn),
    "atan": (lax.atan, drawn),
    "atanh": (lax.atanh, within_one),
    "ceil": (lax.ceil, drawn),
    "copy": (jnp.copy, drawn),
    "cos": (lax.cos, drawn),
    "cosh": (lax.cosh, within_one),
    "erf": (lax.erf, drawn),
    "erfc": (lax.erfc, drawn),
    "exp": (lax.exp, drawn),
    "exp2": (lax.exp2, drawn),
    "expm1": (lax.expm1, drawn),
    "floor": (lax.floor, drawn),
    "integer_pow": (lambda x: lax.integer_pow(x, 3), drawn),
    "is_finite": (lambda x: lax.is_finite(1 / jnp.round(x)), drawn),
    "log": (lax.log, positive),
    "log1p": (lax.log1p, positive),
    "logistic": (lax.logistic, drawn),
    "neg": (lax.neg, drawn),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 23), drawn),
    "rsqrt": (lax.rsqrt, positive),
    "sign": (lax.sign, drawn),
    "sin": (lax.sin, drawn),
    "sinh": (lax.sinh, within_one),
    "sqrt": (lax.sqrt, positive),
    "square": (lax.square, drawn),
    "tan": (lax.tan, within_one),
    "tanh": (lax.tanh, drawn),
}
BINARY = {
    "add": lax.add,
    "div": lambda x, y: lax.div(x, jnp.abs(y) + 1),
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "rem": lambda x, y: lax.rem(x, jnp.abs(y) + 1),
    "sub": lax.sub,
}
COMPARE = {"eq": lax.eq, "ge": lax.ge, "gt": lax.gt, "le": lax.le, "lt": lax.lt, "ne": lax.ne}
LOGIC = {"and": jnp.bitwise_and, "or": jnp.bitwise_or, "xor": jnp.bitwise_xor}
shapes = st.tuples(*[st.integers(1, 4)] * 3)


@pytest.mark.parametrize("primitive", UNARY)
@few
@given(shape=shapes, is_turned=st.booleans())
def test_unary(primitive, shape, is_turned):
    function, draw = UNARY[primitive]
    check(lambda x: function(channels_first(x) if is_turned else x), shape, proves=primitive, draw=draw)


@pytest.mark.parametrize("primitive", BINARY)
@few
@given(shape=shapes, first_is_turned=st.booleans(), second_is_turned=st.booleans())
def test_binary_in_any_order_of_axes(primitive, shape, first_is_turned, second_is_turned):
    def function(x, y):
        x = channels_first(x) if first_is_turned else x
        return BINARY[primitive](x, channels_first(y) if second_is_turned else y)

    check(function, shape, shape, proves=primitive)


@pytest.mark.parametrize("primitive", BINARY)
def test_binary_of_integers(primitive):
    """Among them division, which truncates towards zero, and the remainder, which takes the dividend's sign."""
    check(BINARY[primitive], (5, 4), (5, 4), proves=primitive, dtype=np.int32, draw=whole)


@pytest.mark.parametrize("primitive", COMPARE)
@pytest.mark.parametrize(
    ("dtype", "draw"), [(np.float32, drawn), (np.int32, whole), (np.uint8, bytes_), (np.int8, whole), (np.bool_, coins)]
)
def test_compare(primitive, dtype, draw):
    check(COMPARE[primitive], (6, 5), (6, 5), proves=primitive, dtype=dtype, draw=draw)


@pytest.mark.parametrize("primitive", LOGIC)
@pytest.mark.parametrize(("dtype", "draw"), [(np.bool_, coins), (np.int32, whole)])
def test_logic(primitive, dtype, draw):
    check(LOGIC[primitive], (6, 5), (6, 5), proves=primitive, dtype=dtype, draw=draw)


@pytest.mark.parametrize(("dtype", "draw"), [(np.bool_, coins), (np.int32, whole)])
def test_not(dtype, draw):
    check(lax.bitwise_not, (6, 5), proves="not", dtype=dtype, draw=draw)


@pytest.mark.parametrize("function", [jnp.maximum, jnp.minimum])
def test_extremes_of_truth_values(function):
    check(function, (6, 5), (6, 5), dtype=np.bool_, draw=coins)


@few
@given(shape=shapes, axes=st.sets(st.integers(1, 3)), is_turned=st.booleans(), op=st.sampled_from(["-", "*", "where"]))
def test_constants_broadcast_against_a_stored_order(shape, axes, is_turned, op):
    """The silent trap of layouts: a bias per channel, row or column lands on its own axis."""
    size = [dim if axis in axes else 1 for axis, dim in enumerate(shape, start=1)]
    constant = np.random.default_rng(1).standard_normal(size).astype(np.float32)

    def function(x):
        x = channels_first(x) if is_turned else x
        if op == "where":
            return jnp.where(constant > 0, x, -x)
        return x - constant if op == "-" else constant * x

    check(function, shape)


@few
@given(shape=shapes, axes=st.sets(st.integers(1, 3), min_size=1), first=st.booleans())
def test_reduced_tensors_broadcast_against_whole_ones(shape, axes, first):
    def function(x):
        x = channels_first(x)
        mean = jnp.mean(x, axis=tuple(axes), keepdims=True)
        return mean - x if first else x - mean

    check(function, shape)


@few
@given(exponent=st.integers(-5, 9), shape=shapes)
def test_integer_powers(exponent, shape):
    check(lambda x: x**exponent + x, shape, draw=positive, tolerance=5e-6)


def test_integer_power_of_integers():
    check(lambda x: lax.integer_pow(x, 3), (7,), proves="integer_pow", dtype=np.int32, draw=whole)


@few
@given(shape=shapes)
def test_power_of_two_tensors(shape):
    check(lambda x, y: lax.pow(jnp.abs(x) + 0.1, y / 3), shape, shape, proves="pow", tolerance=5e-6)


def test_power_with_integer_exponents():
    check(
        lambda x, y: lax.pow(jnp.abs(x) + 0.5, jnp.round(y).astype(jnp.int32)), (9,), (9,), proves="pow", tolerance=5e-6
    )


@pytest.mark.parametrize("method", [lax.RoundingMethod.AWAY_FROM_ZERO, lax.RoundingMethod.TO_NEAREST_EVEN])
def test_round_of_halves(method):
    check(lambda x: lax.round(x, method), (50,), proves="round")


@pytest.mark.parametrize("are_tensors", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (1.5, -0.5)])
def test_clamp_also_where_the_bounds_cross(low, high, are_tensors):
    def function(x):
        bounds = (low + 0 * x, high + 0 * x) if are_tensors else (low, high)
        return lax.clamp(jnp.float32(bounds[0]), x, jnp.float32(bounds[1]))

    check(function, (4, 5), proves="clamp")


def test_clamp_of_integers():
    check(lambda x: lax.clamp(jnp.int32(-3), x, jnp.int32(4)), (20,), proves="clamp", dtype=np.int32, draw=whole)


@pytest.mark.parametrize("is_turned", [False, True])
def test_select_takes_the_first_case_for_false(is_turned):
    def function(x, y):
        x = channels_first(x) if is_turned else x
        return lax.select_n(x > y, x, y)

    model = check(function, (3, 4, 2), (3, 4, 2), proves="select_n")
    assert operations(model)["Where"] == 1


def test_select_among_three_by_number():
    check(lambda x: lax.select_n((jnp.abs(x) % 3).astype(jnp.int32), x, -x, x * 10), (30,), proves="select_n")


def test_select_by_one_truth_value_for_all():
    check(lambda x: lax.select_n(jnp.sum(x) > 0, x, -x), (5, 2), proves="select_n")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (source, target)
        for source in (np.float32, np.int32, np.uint8, np.int8, np.bool_)
        for target in (np.float32, np.int32, np.uint8, np.bool_)
        if source != target
    ],
)
def test_conversions(source, target):
    """Float to integer cuts the fraction off; numbers beyond the target's range mean nothing and are not drawn."""

    def draw(generator, shape):
        return coins(generator, shape) if source == np.bool_ else generator.uniform(0, 100, shape)

    check(lambda x: x.astype(target), (40,), proves="convert_element_type", dtype=source, draw=draw)


@pytest.mark.parametrize("function", [lax.log1p, lax.expm1])
def test_small_numbers_keep_their_digits(function):
    def draw(generator, shape):
        return 10.0 ** generator.uniform(-12, 1.5, shape) * np.where(
            function is lax.log1p, 1, generator.choice([-1, 1])
        )

    model = check(function, (64,), draw=draw, tolerance=1e-5)
    x = np.float32([[1e-7, 3e-6] + [0] * 62])
    (found,) = run_session(model).run(None, {"x0": x})
    np.testing.assert_allclose(found, np.asarray(function(jnp.asarray(x))), rtol=1e-5)


def test_softplus_gelu_silu_and_softmax():
    def function(x):
        return jax.nn.softplus(x), jax.nn.gelu(x, approximate=False), jax.nn.silu(x), jax.nn.softmax(x, axis=-1)

    check(function, (3, 4), tolerance=5e-6)


def test_random_numbers_from_a_fixed_key_are_constants():
    def function(x):
        return x * jax.random.bernoulli(jax.random.key(3), 0.5, x.shape[1:])

    assert operations(check(function, (6, 5))) == {"Mul": 1}


@pytest.mark.parametrize("primitive", ["optimization_barrier", "stop_gradient"])
def test_stop_gradient_and_barriers_vanish(primitive):
    def function(x):
        return lax.stop_gradient(lax.optimization_barrier(x)) + 1

    assert operations(check(function, (3,), proves=primitive)) == {"Add": 1}


def test_a_sharding_constraint_vanishes():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def function(x):
        return lax.with_sharding_constraint(x + 1, device)

    assert operations(check(function, (3,), proves="sharding_constraint")) == {"Add": 1}


def test_added_cotangents():
    """Gradients inside a score sum with add_any."""
    check(jax.grad(lambda v: jnp.sum(v * v + v * jnp.tanh(v))), (4,), proves="add_any")
