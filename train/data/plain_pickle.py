"""Pickles of plain values, read without unpickling: nothing is imported and nothing called, whatever the file asks for.

A pickle is a program; `pickletools` of the standard library only lists its instructions. Those that build lists, dicts,
tuples, strings, bytes, numbers and NumPy arrays of numbers are followed here; any other is refused by its name.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from train.data.samples import DataError, shown

MAX_BYTES = 1 << 28  # 256 MiB; a batch of CIFAR-10 has 30

Plain = Any  # dict, list, tuple, str, bytes, int, float, bool, None or np.ndarray; Python 2's str comes as bytes


def read_plain_pickle(path: Path) -> Plain:
    """Raises DataError for a file that is damaged, or that asks for more than plain values; OSError where none is."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DataError(f"{shown(path)} has {size >> 20} MiB, too many for such a file. Copy it again.")
    try:
        return _run(path.read_bytes())
    except _Refused as error:
        raise DataError(
            f"{shown(path)} asks for {error}, and only lists, numbers and arrays belong there. Nothing of it was "
            "executed. Get the file again from those who publish it."
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise DataError(
            f"{shown(path)} is damaged ({shown(str(error)) or type(error).__name__}). Copy it again."
        ) from None


class _Refused(Exception):
    """What a pickle asked for that is no plain value."""


class _Name(NamedTuple):
    """A global that the file names; never looked up."""

    module: str
    name: str


class _DType(NamedTuple):
    code: str  # u1, i8, f4, ...
    order: str  # |, < or >


class _Array:
    """An array whose contents are still to come; told apart by identity."""


RECONSTRUCT = {_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct")}
NDARRAY, DTYPE, ENCODE = _Name("numpy", "ndarray"), _Name("numpy", "dtype"), _Name("_codecs", "encode")
NAMES = {*RECONSTRUCT, NDARRAY, DTYPE, ENCODE}

BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # Python 2's str
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(program: bytes) -> Plain:
    stack: list[Any] = []
    outer: list[list[Any]] = []  # stacks below each mark
    memo: dict[int, Any] = {}
    for opcode, operand, _ in pickletools.genops(program):
        name, argument = opcode.name, cast(Any, operand)
        if name in VALUES:
            stack.append(argument)
        elif name in BYTES:
            stack.append(argument.encode("latin-1"))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in {"BINGET", "LONG_BINGET", "GET"}:
            stack.append(memo[argument])
        elif name in {"BINPUT", "LONG_BINPUT", "PUT"}:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name in {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"}:
            stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
        elif name in {"LIST", "DICT", "TUPLE"}:
            items, stack = stack, outer.pop()
            stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else _filled({}, items))
        elif name in TUPLES:
            count = TUPLES[name]
            if len(stack) < count:
                raise IndexError("a tuple of more values than there are")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in {"APPENDS", "SETITEMS"}:
            items, stack = stack, outer.pop()
            _extend(stack[-1], items) if name == "APPENDS" else _filled(stack[-1], items)
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _filled(stack[-1], [key, value])
        elif name in {"GLOBAL", "STACK_GLOBAL"}:
            if name == "GLOBAL":
                module, _, attribute = argument.partition(" ")
            else:
                attribute, module = stack.pop(), stack.pop()
            stack.append(_known(module, attribute))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduced(function, arguments))
        elif name == "BUILD":
            state, unfinished = stack.pop(), stack.pop()
            stack.append(built := _built(unfinished, state))
            memo = {index: built if value is unfinished else value for index, value in memo.items()}
        elif name == "STOP":
            return stack.pop()
        elif name not in {"PROTO", "FRAME"}:
            raise _Refused(f"the instruction {name}")
    raise ValueError("it ends too early")


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise TypeError("an item for what is no list")
    target += items


def _filled(target: Any, items: list[Any]) -> dict[Any, Any]:
    if type(target) is not dict or len(items) % 2:
        raise TypeError("a key and a value for what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int):
            raise TypeError("a key that is no text")
        target[key] = value
    return target


def _known(module: Any, name: Any) -> _Name:
    if (asked := _Name(_text(module), _text(name))) not in NAMES:
        raise _Refused(shown(f"{asked.module}.{asked.name}"))
    return asked


def _reduced(function: Any, arguments: Any) -> Any:
    if type(function) is not _Name or type(arguments) is not tuple:
        raise _Refused("a call of something that is no function")
    if function in RECONSTRUCT and arguments[:1] == (NDARRAY,):
        return _Array()
    if function == DTYPE and re.fullmatch("b1|[iu][1248]|f[248]", _text(arguments[0])):
        return _DType(_text(arguments[0]), "|")
    if function == ENCODE and arguments[1:] in (("latin1",), ("latin-1",)):  # Python 3's bytes in protocol 2
        return _text(arguments[0]).encode("latin-1")
    raise _Refused(f"an unusual call of {function.module}.{function.name}")


def _built(unfinished: Any, state: Any) -> Any:
    if type(unfinished) is _DType:
        _, order, subarray, names, fields, *_ = state
        if (subarray, names, fields) != (None, None, None) or _text(order) not in {"|", "<", ">"}:
            raise _Refused("an array of something else than numbers")
        return _DType(unfinished.code, _text(order))
    if type(unfinished) is not _Array:
        raise _Refused("an object with a state of its own")
    _, shape, dtype, by_columns, data = state
    if type(dtype) is not _DType or type(data) is not bytes:
        raise _Refused("an array of something else than numbers")
    numbers = np.frombuffer(data, np.dtype(dtype.order + dtype.code))
    if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != numbers.size:
        raise ValueError("an array whose size and contents disagree")
    return numbers.reshape(shape, order="F" if by_columns else "C")


def _text(value: Any) -> str:
    if not isinstance(value, str | bytes):
        raise TypeError("something else where a text belongs")
    return value.decode("latin-1") if isinstance(value, bytes) else value
