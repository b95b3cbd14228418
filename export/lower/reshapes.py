"""Operations that only rename, regroup or stretch axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from export.lower.layout import Tensor, arranged, channels_first, reshaped, stretched_to_full
from export.lower.registry import Operation, lowers
from export.lower.resize import repeated
from export.lower.shapes import Group, is_static, regroup


@lowers("transpose")
def transpose(operation: Operation) -> Tensor:
    x = operation.tensor()
    permutation = list(operation.params["permutation"])
    return replace(x, shape=operation.shape, axes=tuple(permutation.index(axis) for axis in x.axes))


@lowers("broadcast_in_dim")
def broadcast_in_dim(operation: Operation) -> Tensor:
    """Nothing moves: stretched axes stay at stored size 1 until an operation needs them."""
    x = operation.tensor()
    places = operation.params["broadcast_dimensions"]
    return replace(x, shape=operation.shape, axes=tuple(places[axis] for axis in x.axes))


@lowers("squeeze")
def squeeze(operation: Operation) -> Tensor:
    gone = operation.params["dimensions"]
    x = operation.tensor()
    x = arranged(operation.graph, x, [axis for axis in x.axes if axis not in gone])
    kept = [axis for axis in range(len(x.shape)) if axis not in gone]
    return replace(x, shape=operation.shape, axes=tuple(kept.index(axis) for axis in x.axes))


@lowers("reshape")
def reshape(operation: Operation) -> Tensor:
    """Regroups axes where they are stored, if every run of axes that is merged lies together and in order.

    Otherwise one Transpose brings the runs together; the result then has channels first where the graph convolves.
    """
    operation.require(operation.params.get("dimensions") is None, "a reshape with an order of axes is not lowered")
    graph, x = operation.graph, operation.tensor()
    x, groups = _with_repeats(operation, x, regroup(x.shape, operation.shape, graph.batch))
    merged = [axis for before, after in groups if len(before) != 1 or len(after) != 1 for axis in before]
    x = stretched_to_full(graph, x, [axis for axis in merged if x.is_stretched(axis)])
    present = [group for group in groups if set(group[0]) & set(x.order)]
    present.sort(key=lambda group: min(x.order.index(axis) for axis in group[0]))
    if _before(present) != x.order:
        present = _channels_first(operation, present) or present
        x = arranged(graph, x, _before(present))
    axes = tuple(axis for _, after in present for axis in after)
    sizes = tuple(operation.shape[axis] for axis in axes)
    return operation.result(reshaped(graph, x.name, x.sizes, sizes), axes, sizes)


def _before(groups: Sequence[Group]) -> tuple[int, ...]:
    return tuple(axis for before, _ in groups for axis in before)


def _channels_first(operation: Operation, groups: Sequence[Group]) -> list[Group] | None:
    """The groups so ordered that the result is stored as [n, c, h, w]; None if they can't be, or nothing convolves."""
    rank = len(operation.shape)
    if rank != 4 or not operation.graph.prefers_channels_first:
        return None
    wanted = [axis for axis in channels_first(rank) if any(axis in after for _, after in groups)]
    ordered = sorted(groups, key=lambda group: wanted.index(group[1][0]))
    return ordered if [axis for _, after in ordered for axis in after] == wanted else None


def _with_repeats(operation: Operation, x: Tensor, groups: list[Group]) -> tuple[Tensor, list[Group]]:
    """An image axis merged with a stretched axis behind it repeats each pixel: nearest upsampling, not a copy."""
    result: list[Group] = []
    for before, after in groups:
        upsampled = None
        if len(before) == 2 and len(after) == 1 and x.is_stretched(before[1]) and is_static(x.shape[before[1]]):
            upsampled = repeated(operation.graph, x, before[0], int(x.shape[before[1]]))
        x = upsampled or x
        result.append((before[:1], after) if upsampled else (before, after))
    return x, result
