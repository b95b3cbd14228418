"""Operations on each element by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.lower.dtypes import BOOL, FLOAT32, INT32, onnx_type
from export.lower.layout import Constant, Tensor, Value, arranged, channels_first, renamed
from export.lower.registry import Operation, lowers

_UNARY = {
    "abs": "Abs",
    "acos": "Acos",
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
_ARITHMETIC = {"add": "Add", "add_any": "Add", "div": "Div", "max": "Max", "min": "Min", "mul": "Mul", "sub": "Sub"}
_COMPARE = {"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}
_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}
_UNCHANGED = ("copy", "optimization_barrier", "sharding_constraint", "stop_gradient")


def apply(operation: Operation, op: str, x: Tensor, *more: str) -> Tensor:
    """A unary ONNX operation, perhaps with scalar constants behind its input."""
    return renamed(x, operation.graph.add(op, x.name, *more))


def scalar(operation: Operation, value: float, dtype: np.dtype = FLOAT32) -> str:
    return operation.graph.constant(value, dtype)


@lowers(*_UNARY)
def unary(operation: Operation) -> Tensor:
    _require_arithmetic(operation, operation.inputs[0])
    return apply(operation, _UNARY[operation.primitive], operation.tensor())


@lowers(*_ARITHMETIC)
def arithmetic(operation: Operation) -> Tensor:
    """Integer division truncates in both JAX and ONNX."""
    if operation.dtype == BOOL and operation.primitive in ("max", "min"):
        return operation.elementwise("Or" if operation.primitive == "max" else "And")
    _require_arithmetic(operation, *operation.inputs)
    if operation.primitive == "max" and operation.dtype == FLOAT32:
        for value, other in (operation.inputs, operation.inputs[::-1]):
            is_whole = len(other.shape) == len(operation.shape)
            if isinstance(value, Constant) and isinstance(other, Tensor) and value.scalar() == 0 and is_whole:
                return renamed(other, operation.graph.add("Relu", other.name))
    return operation.elementwise(_ARITHMETIC[operation.primitive])


@lowers(*_COMPARE, "ne")
def compare(operation: Operation) -> Tensor:
    """Comparisons; integers of 8 and 16 bits are widened first, and truth values are compared as integers."""
    narrow = operation.inputs[0].dtype not in (FLOAT32, INT32)
    values = [converted(operation, value, INT32) if narrow else value for value in operation.inputs]
    if operation.primitive == "ne":
        equal = operation.elementwise("Equal", *values)
        return apply(operation, "Not", equal)
    return operation.elementwise(_COMPARE[operation.primitive], *values)


@lowers(*_LOGIC)
def logic(operation: Operation) -> Tensor:
    op = _LOGIC[operation.primitive]
    if operation.dtype != BOOL:
        _require_arithmetic(operation, *operation.inputs)
        op = f"Bitwise{op}"
    return operation.elementwise(op)


@lowers("not")
def logical_not(operation: Operation) -> Tensor:
    return apply(operation, "Not" if operation.dtype == BOOL else "BitwiseNot", operation.tensor())


@lowers("rem")
def remainder(operation: Operation) -> Tensor:
    """The remainder takes the sign of the dividend, as C's fmod."""
    _require_arithmetic(operation, *operation.inputs)
    return operation.elementwise("Mod", fmod=1)


@lowers("pow")
def power(operation: Operation) -> Tensor:
    base, exponent = operation.inputs
    _require_arithmetic(operation, base)
    return operation.elementwise("Pow", base, converted(operation, exponent, base.dtype))


@lowers("integer_pow")
def integer_power(operation: Operation) -> Value:
    """Repeated squaring, as XLA does it; a negative power is the reciprocal of the positive one."""
    x = operation.tensor()
    _require_arithmetic(operation, x)
    exponent = abs(operation.params["y"])
    result: Tensor | None = None
    square = x
    while exponent:
        if exponent % 2:
            result = square if result is None else renamed(x, operation.graph.add("Mul", result.name, square.name))
        exponent //= 2
        if exponent:
            square = renamed(x, operation.graph.add("Mul", square.name, square.name))
    if result is None:
        return Constant(np.ones([1] * len(operation.shape), operation.dtype), operation.shape)
    return apply(operation, "Reciprocal", result) if operation.params["y"] < 0 else result


@lowers("square")
def square(operation: Operation) -> Tensor:
    x = operation.tensor()
    _require_arithmetic(operation, x)
    return apply(operation, "Mul", x, x.name)


@lowers("rsqrt")
def reciprocal_root(operation: Operation) -> Tensor:
    return apply(operation, "Reciprocal", apply(operation, "Sqrt", operation.tensor()))


@lowers("exp2")
def power_of_two(operation: Operation) -> Tensor:
    x = operation.tensor()
    return renamed(x, operation.graph.add("Pow", scalar(operation, 2.0), x.name))


@lowers("erfc")
def complementary_error(operation: Operation) -> Tensor:
    error = apply(operation, "Erf", operation.tensor())
    return renamed(error, operation.graph.add("Sub", scalar(operation, 1.0), error.name))


@lowers("log1p")
def log_of_one_plus(operation: Operation) -> Tensor:
    """log(u) x / (u - 1) with u = 1 + x, which keeps small x exact (Kahan); x itself where u rounds to 1."""
    x, one = operation.tensor(), scalar(operation, 1.0)
    add = operation.graph.add
    u = add("Add", x.name, one)
    exact = add("Div", add("Mul", add("Log", u), x.name), add("Sub", u, one))
    return renamed(x, add("Where", add("Equal", u, one), x.name, exact))


@lowers("expm1")
def exp_minus_one(operation: Operation) -> Tensor:
    """(u - 1) x / log(u) with u = exp(x), which keeps small x exact (Kahan); plain u - 1 for |x| > 1."""
    x, one = operation.tensor(), scalar(operation, 1.0)
    add = operation.graph.add
    u = add("Exp", x.name)
    plain = add("Sub", u, one)
    exact = add("Div", add("Mul", plain, x.name), add("Log", u))
    small = add("Where", add("Equal", u, one), x.name, exact)
    return renamed(x, add("Where", add("Greater", add("Abs", x.name), one), plain, small))


@lowers("round")
def rounded(operation: Operation) -> Tensor:
    x = operation.tensor()
    if int(operation.params["rounding_method"]) == 1:  # to nearest even, which is ONNX's
        return apply(operation, "Round", x)
    add = operation.graph.add
    whole = add("Floor", add("Add", add("Abs", x.name), scalar(operation, 0.5)))
    return renamed(x, add("Mul", add("Sign", x.name), whole))


@lowers("is_finite")
def is_finite(operation: Operation) -> Tensor:
    x = operation.tensor()
    add = operation.graph.add
    return renamed(x, add("Not", add("Or", add("IsNaN", x.name), add("IsInf", x.name))), operation.dtype)


@lowers("clamp")
def clamp(operation: Operation) -> Tensor:
    """min(max(x, low), high), in this order, which matters where low > high."""
    low, x, high = operation.inputs
    _require_arithmetic(operation, x)
    if isinstance(x, Tensor) and isinstance(low, Constant) and isinstance(high, Constant):
        bounds = (low.scalar(), high.scalar())
        if None not in bounds:
            return apply(operation, "Clip", x, *[operation.graph.constant(bound) for bound in bounds])
    raised = operation.elementwise("Max", x, low)
    return operation.elementwise("Min", raised, high)


@lowers("select_n")
def select(operation: Operation) -> Value:
    """cases[which]: for a truth value the first case is the one of False."""
    which, *cases = operation.inputs
    if isinstance(which, Constant) and which.array.size == 1:
        return cases[int(which.scalar() or 0)]
    if which.dtype == BOOL:
        return operation.elementwise("Where", which, cases[1], cases[0])
    result = cases[-1]
    for index in reversed(range(len(cases) - 1)):
        test = replace(operation, shapes=(which.shape,), dtypes=(BOOL,))
        is_this = test.elementwise("Equal", which, Constant(np.asarray(index, which.dtype), ()))
        result = operation.elementwise("Where", is_this, cases[index], result)
    return result


@lowers("convert_element_type")
def convert(operation: Operation) -> Value:
    """Bytes of an image that become floats are turned to channels first where the graph convolves."""
    x = operation.inputs[0]
    result = converted(operation, x, operation.dtype)
    is_image = isinstance(result, Tensor) and x.dtype == np.uint8 and len(x.shape) == 4 and result.dtype == FLOAT32
    if isinstance(result, Tensor) and is_image and operation.graph.prefers_channels_first:
        return arranged(operation.graph, result, channels_first(4))
    return result


@lowers("reduce_precision")
def reduce_precision(operation: Operation) -> Value:
    operation.require(
        operation.params["exponent_bits"] >= 8 and operation.params["mantissa_bits"] >= 23,
        "rounding to fewer bits than float32 is not lowered; export writes float32 only",
    )
    return operation.inputs[0]


@lowers(*_UNCHANGED)
def unchanged(operation: Operation) -> list[Value]:
    return list(operation.inputs)


def converted(operation: Operation, value: Value, dtype: np.dtype) -> Value:
    """The value in another dtype."""
    if value.dtype == dtype:
        return value
    if isinstance(value, Constant):
        return Constant(value.array.astype(dtype), value.shape)
    return renamed(value, operation.graph.add("Cast", value.name, to=onnx_type(dtype)), dtype)


def _require_arithmetic(operation: Operation, *values: Value) -> None:
    for value in values:
        operation.require(
            value.dtype in (FLOAT32, INT32),
            f"arithmetic on {value.dtype} is not lowered, because engines differ in how it wraps round; convert to "
            f"float32 or int32 first",
        )
