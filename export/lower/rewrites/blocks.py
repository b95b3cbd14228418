"""Moves of 2x2 (or larger) blocks between channels and pixels, which engines know as one operation.

Sub-pixel convolutions write them as reshape, transpose, reshape. They are recognised by these three, never by a name.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.lower.graph import Graph, Node
from export.lower.rewrites.index import Index
from export.lower.shapes import Dim, is_one, is_static

_ALL = (0, 1, 2, 3, 4, 5)
_DEPTH_TO_SPACE: dict[tuple[int, ...], str] = {
    (0, 3, 4, 1, 5, 2): "DCR",
    (0, 1, 4, 2, 5, 3): "CRD",
}  # of [n, b, b, c, h, w] and [n, c, b, b, h, w]
_ACTIVATIONS = ("LeakyRelu", "Relu", "Sigmoid", "Tanh")
_SPACE_TO_DEPTH = (0, 3, 5, 1, 2, 4)  # of [n, c, h, b, w, b]


@dataclass(frozen=True)
class _Move:
    op: str
    attributes: dict[str, int | str]
    before: tuple[Dim, ...]  # [n, c, h, w] that goes in
    after: tuple[Dim, ...]  # and comes out; the batch is -1


def name_block_moves(graph: Graph) -> None:
    """Reshape, Transpose, Reshape of an image become DepthToSpace or SpaceToDepth."""
    for transpose in [node for node in graph.nodes if node.op == "Transpose"]:
        index = Index(graph)
        first = index.producer(transpose.inputs[0], "Reshape")
        last = index.only_reader(transpose.outputs[0], "Reshape")
        if first is None or last is None or index.only_reader(first.outputs[0], "Transpose") is None:
            continue
        sizes, target = index.integers(first.inputs[1]), index.integers(last.inputs[1])
        entered = graph.stored_sizes.get(first.inputs[0])
        if sizes is None or target is None or entered is None:
            continue
        move = _recognised(sizes, transpose.attributes["perm"])
        if move is not None and _fits(entered, move.before):
            _write(graph, move, first, transpose, last, entered, target)


def _recognised(sizes: list[int], permutation: list[int]) -> _Move | None:
    """The move that a reshape to these sizes and a transpose make; a single channel may have been left out."""
    for place in (None, 1, 3):
        full_sizes, full = list(sizes), list(permutation)
        if place is not None:
            full_sizes.insert(place, 1)
            full = _with_axis(permutation, place)
        if sorted(full) != list(_ALL) or len(full_sizes) != 6:
            continue
        n, *rest = full_sizes
        if (mode := _DEPTH_TO_SPACE.get(tuple(full))) is not None:
            (block, other, channels) = rest[:3] if mode == "DCR" else (rest[1], rest[2], rest[0])
            height, width = rest[3:]
            if block == other:
                before = (n, block * block * channels, height, width)
                after = (n, channels, height * block, width * block)
                return _Move("DepthToSpace", {"blocksize": block, "mode": mode}, before, after)
        channels, height, block, width, other = rest
        if tuple(full) == _SPACE_TO_DEPTH and block == other:
            before = (n, channels, height * block, width * block)
            after = (n, block * block * channels, height, width)
            return _Move("SpaceToDepth", {"blocksize": block}, before, after)
    return None


def _with_axis(permutation: list[int], place: int) -> list[int]:
    """The permutation with an input axis of size 1 put in at `place`, and its output where the known ones expect it."""
    shifted = [axis + (axis >= place) for axis in permutation]
    for known in (*_DEPTH_TO_SPACE, _SPACE_TO_DEPTH):
        if [axis for axis in known if axis != place] == shifted:
            return list(known)
    return []


def _fits(entered: tuple[Dim, ...], before: tuple[Dim, ...]) -> bool:
    """Whether the stored sizes are those of the image that the move takes, axes of size 1 aside."""
    real = [dim for dim in entered if not is_one(dim)]
    wanted = [dim for dim in before if dim != 1]
    return len(real) == len(wanted) and all(
        (a == b) if is_static(a) else b == -1 for a, b in zip(real, wanted, strict=True)
    )


def _write(
    graph: Graph, move: _Move, first: Node, transpose: Node, last: Node, entered: tuple[Dim, ...], target: list[int]
) -> None:
    """Reuses the three nodes: the first and the last stay only where the image is not stored with four axes."""
    transpose.op, transpose.attributes = move.op, dict(move.attributes)
    if len(entered) == 4:
        transpose.inputs = [first.inputs[0]]
    else:
        first.inputs[1] = graph.integers(*move.before)
    if target == list(move.after):
        transpose.outputs, last.outputs = last.outputs, [graph.new_name("unused")]


def activate_before_block_moves(graph: Graph) -> None:
    """An activation of what DepthToSpace moved goes before it, where engines fuse it with the convolution."""
    for move in [node for node in graph.nodes if node.op == "DepthToSpace"]:
        reader = Index(graph).only_reader(move.outputs[0], *_ACTIVATIONS)
        if reader is None:
            continue
        first, second = graph.nodes.index(move), graph.nodes.index(reader)
        source, result = move.inputs[0], reader.outputs[0]
        between = graph.new_name(reader.op)
        reader.inputs, reader.outputs = [source], [between]
        move.inputs, move.outputs = [between], [result]
        graph.nodes[first], graph.nodes[second] = reader, move
