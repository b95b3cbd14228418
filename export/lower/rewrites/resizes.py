"""Height and width are lowered one after the other; engines resize both at once."""

from __future__ import annotations

from export.lower.graph import Graph
from export.lower.rewrites.index import Index


def merge_resizes(graph: Graph) -> None:
    """A resize of a resize in the same mode, along other axes, becomes one."""
    for node in graph.nodes:
        if node.op != "Resize":
            continue
        index = Index(graph)
        before = index.producer(node.inputs[0], "Resize")
        if before is None or before.attributes != node.attributes or not index.only_reader(node.inputs[0], "Resize"):
            continue
        first, second = (graph.constants[resize.inputs[2]] for resize in (before, node))
        if not any((first != 1) & (second != 1)):
            node.inputs = [before.inputs[0], "", graph.constant(first * second)]
