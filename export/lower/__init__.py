"""JAX to ONNX: our own lowering of a traced function.

`lower` traces a function with a symbolic batch, computes what does not depend on the image, and writes the rest as ONNX
operations in the order of axes that engines convolve in. Every rule is tested against JAX; what has no rule is refused
by name and place. Rules stand by family: elementwise, reductions, reshapes, indexing, products, convolutions, resize.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from export.lower.errors import LoweringError
from export.lower.model import IR_VERSION, OPSET, as_model
from export.lower.rewrites import simplify
from export.lower.rules import RULES
from export.lower.trace import InputSpec, trace

__all__ = ["IR_VERSION", "OPSET", "InputSpec", "LoweringError", "lower", "lowered_primitives"]


def lower(
    function: Callable[..., Any], inputs: Mapping[str, InputSpec], outputs: Sequence[str], *, name: str = "model"
) -> onnx.ModelProto:
    """The ONNX model of a pure JAX function; its weights, closed over, become constants.

    Args:
        function: takes arrays in the order of `inputs`, returns a tree of arrays in the order of `outputs`.
        inputs: name -> shape and dtype. One size may be a name, such as "batch": it is left open.
        outputs: the names of the outputs, which keep JAX's order of axes.
        name: the graph's name.

    Raises:
        LoweringError: an operation has no ONNX form here; the text names it and its place in the model.
    """
    graph, given, written = trace(function, inputs, outputs)
    simplify(graph)
    return as_model(graph, given, written, name)


def lowered_primitives() -> tuple[str, ...]:
    """The JAX primitives that have a rule, sorted."""
    return tuple(sorted(RULES))
