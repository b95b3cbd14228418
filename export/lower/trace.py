"""Walks a traced model, operation by operation, and writes the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from export.lower.dtypes import FLOAT32, onnx_type
from export.lower.errors import LoweringError, UnsupportedError
from export.lower.fold import fold
from export.lower.graph import Graph
from export.lower.layout import Constant, Tensor, Value, arranged, channels_first, in_full, stored
from export.lower.places import Place
from export.lower.registry import Operation
from export.lower.rules import RULES
from export.lower.shapes import Shape

_INLINED = frozenset(
    (
        *("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"),
        *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    )
)
_JAXPR_PARAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_INSTEAD = {
    "scan": "write the loop in Python, or give the passes an axis of their own",
    "while": "write the loop in Python, with a number of rounds that is known at export",
    "cond": "compute both and choose with jnp.where",
    "scatter": "build the array with jnp.concatenate or jnp.where instead of .at[...].set(...)",
    "scatter-add": "write the sum with jnp.sum or a product instead of .at[...].add(...)",
    "pure_callback": "write it with jax.numpy; a callback into Python can't be shipped",
    "io_callback": "take it out; a callback into Python can't be shipped",
    "debug_callback": "take jax.debug out of the scoring function",
}


class InputSpec:
    """A graph input: its shape, whose first size may be the name of the symbolic batch, and its dtype."""

    def __init__(self, shape: Sequence[int | str], dtype: Any) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)


def trace(
    function: Callable[..., Any], inputs: Mapping[str, InputSpec], outputs: Sequence[str]
) -> tuple[Graph, dict[str, Tensor], dict[str, Tensor]]:
    """The graph of a function, its inputs, and its outputs stored in JAX's order of axes.

    Raises:
        LoweringError: the function does something that has no form here.
    """
    shapes, batch = _symbolic(inputs)
    structs: list[Any] = [_struct(shape, spec.dtype) for shape, spec in zip(shapes, inputs.values(), strict=True)]
    closed = jax.make_jaxpr(function)(*structs)
    given = {name: stored(name, s.dtype, s.shape) for name, s in zip(inputs, structs, strict=True)}
    source = next(
        ((name, axis) for name, spec in inputs.items() for axis, dim in enumerate(spec.shape) if isinstance(dim, str)),
        None,
    )
    graph = Graph(batch, source)
    graph.prefers_channels_first = _convolves(closed.jaxpr)
    results = _Walk(graph).run(closed.jaxpr, closed.consts, [_entered(graph, x) for x in given.values()], Place())
    if len(results) != len(outputs):
        raise LoweringError(f"The function returns {len(results)} arrays, but {len(outputs)} outputs are named.")
    graph.scope = ""
    written = {}
    for name, value in zip(outputs, results, strict=True):
        graph.add_output(in_full(graph, value, range(len(value.shape))), name)
        written[name] = stored(name, value.dtype, value.shape)
    return graph, given, written


def _struct(shape: Shape, dtype: np.dtype) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _symbolic(inputs: Mapping[str, InputSpec]) -> tuple[list[Shape], Any]:
    """The inputs' shapes with one shared symbol for the batch, and the symbol."""
    names = {dim for spec in inputs.values() for dim in spec.shape if isinstance(dim, str)}
    if len(names) > 1:
        raise LoweringError(f"Only one size can be left open, but the inputs leave {', '.join(sorted(names))} open.")
    batch = jax.export.symbolic_shape(names.pop())[0] if names else None
    return [tuple(batch if isinstance(dim, str) else dim for dim in spec.shape) for spec in inputs.values()], batch


def _entered(graph: Graph, x: Tensor) -> Tensor:
    """Float images turn to channels first at once, bytes when they are converted: TensorRT can't turn bytes."""
    if graph.prefers_channels_first and len(x.shape) == 4 and x.dtype == FLOAT32:
        return arranged(graph, x, channels_first(4))
    return x


def _convolves(jaxpr: Jaxpr) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inner = _inner(equation.params)
        if inner is not None and _convolves(inner[0]):
            return True
    return False


def _inner(params: Mapping[str, Any]) -> tuple[Jaxpr, Sequence[Any]] | None:
    for name in _JAXPR_PARAMS:
        found = params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found.jaxpr, found.consts
        if isinstance(found, Jaxpr):
            return found, ()
    return None


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Value], caller: Place) -> list[Value]:
        """The outputs of a jaxpr that `caller` calls."""
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, array in zip(jaxpr.constvars, constants, strict=True):
            values[variable] = _constant(array, variable.aval)

        def read(variable: Any) -> Value:
            return _constant(variable.val, variable.aval) if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            results = self._results(equation, [read(variable) for variable in equation.invars], caller)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _results(self, equation: JaxprEqn, inputs: list[Value], caller: Place) -> Sequence[Value]:
        place = caller.inside(equation.source_info)
        name = equation.primitive.name
        if name in _INLINED and (inner := _inner(equation.params)) is not None:
            return self.run(*inner, inputs, place)
        if name == "cond" and isinstance(inputs[0], Constant):
            branch = equation.params["branches"][int(inputs[0].array)]
            return self.run(branch.jaxpr, branch.consts, inputs[1:], place)
        self._graph.scope = place.node_scope
        try:
            return self._lowered(equation, inputs)
        except UnsupportedError as error:
            raise LoweringError(f"{place}: the operation '{name}' can't be exported: {error}.") from None

    def _lowered(self, equation: JaxprEqn, inputs: list[Value]) -> Sequence[Value]:
        avals: list[Any] = [variable.aval for variable in equation.outvars]
        shapes = tuple(tuple(aval.shape) for aval in avals)
        constants = [value for value in inputs if isinstance(value, Constant)]
        if len(constants) == len(inputs):
            folded = fold(equation.primitive, constants, equation.params, shapes)
            if folded is not None:
                return folded
        name = equation.primitive.name
        if name not in RULES:
            instead = _INSTEAD.get(name, "rewrite the line with the operations that docs/export.md lists")
            raise UnsupportedError(f"it has no ONNX form here; {instead}")
        dtypes = tuple(np.dtype(aval.dtype) for aval in avals)
        for dtype in dtypes:
            onnx_type(dtype)
        result = RULES[name](Operation(self._graph, name, tuple(inputs), equation.params, shapes, dtypes))
        return [result] if isinstance(result, (Tensor, Constant)) else result


def _constant(value: Any, aval: Any) -> Constant:
    """A weight, or a number written in the code, in the dtype that JAX gives it."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return Constant(value, tuple(aval.shape))
    return Constant(np.asarray(value, aval.dtype), tuple(aval.shape))
