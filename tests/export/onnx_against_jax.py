"""Lowers a function and compares ONNX Runtime with JAX, at batch 1 and 3.

EXAMPLES=200 pytest tests/export looks longer, and elsewhere each time.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from hypothesis import settings

from export.lower import InputSpec, lower

BATCHES = (1, 3)
few = settings(
    max_examples=int(os.environ.get("EXAMPLES", "6")), deadline=None, derandomize="EXAMPLES" not in os.environ
)


def check(
    function: Callable[..., Any],
    *shapes: Sequence[int],
    proves: str | None = None,
    dtype: Any = np.float32,
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] | None = None,
    seed: int = 0,
    tolerance: float = 2e-6,
) -> onnx.ModelProto:
    """The model of a function of arrays [batch, *shape], after its answers were found to equal JAX's.

    proves: the primitive that must occur in the traced function. draw: values; by default small whole and broken
    numbers of both signs. tolerance: of a difference, relative to the largest answer (at least 1).
    """
    inputs = {f"x{index}": InputSpec(("batch", *shape), dtype) for index, shape in enumerate(shapes)}
    (batch,) = jax.export.symbolic_shape("batch")
    traced = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct((batch, *shape), dtype) for shape in shapes))
    if proves is not None:
        assert proves in set(primitives(traced.jaxpr)), (
            f"{proves} does not occur; found {set(primitives(traced.jaxpr))}"
        )
    outputs = [f"y{index}" for index in range(len(traced.out_avals))]
    model = lower(function, inputs, outputs)
    session, compiled = run_session(model), jax.jit(function)
    for size in BATCHES:
        generator = np.random.default_rng([seed, size])
        values = [(draw or drawn)(generator, (size, *shape)).astype(dtype) for shape in shapes]
        found = session.run(None, dict(zip(inputs, values, strict=True)))
        expected = jax.tree.leaves(compiled(*values))
        for ours, theirs in zip(found, map(np.asarray, expected), strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            scale = max(1.0, float(np.abs(np.where(np.isfinite(theirs), theirs, 0)).max(initial=0)))
            np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=tolerance * scale)
    return model


def drawn(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of the numbers are whole, so that equal values, halves and zeros occur."""
    values = 3 * generator.standard_normal(shape)
    return np.where(generator.random(shape) < 0.5, np.round(values * 2) / 2, values)


def positive(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.abs(drawn(generator, shape)) + 0.05


def within_one(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.uniform(-0.95, 0.95, shape)


def whole(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.integers(-9, 10, shape)


def bytes_(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.integers(0, 256, shape)


def coins(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.random(shape) < 0.5


def channels_first(x: jax.Array) -> jax.Array:
    """The same float image [n, h, w, c]; it has passed a convolution, so the lowering stores it as [n, c, h, w]."""
    kernel = jnp.eye(x.shape[-1], dtype=jnp.float32)[None, None]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def run_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def operations(model: onnx.ModelProto) -> Counter[str]:
    """How often each ONNX operation occurs."""
    return Counter(node.op_type for node in model.graph.node)


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "jaxpr"):
                    yield from primitives(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    yield from primitives(inner)
