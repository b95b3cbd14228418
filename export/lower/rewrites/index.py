"""Who writes and who reads each tensor of a graph."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from export.lower.graph import Graph, Node


class Index:
    """Valid until the graph changes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self.readers[name].append(node)

    def producer(self, name: str, *ops: str) -> Node | None:
        """The node that writes a tensor, if it is one of these operations."""
        node = self.producers.get(name)
        return node if node is not None and node.op in ops else None

    def only_reader(self, name: str, *ops: str) -> Node | None:
        """The one node that reads a tensor, if there is just one and it is one of these operations."""
        readers = self.readers[name]
        if len(readers) != 1 or name in self.graph.outputs or readers[0].op not in ops:
            return None
        return readers[0]

    def constant(self, name: str) -> np.ndarray | None:
        return self.graph.constants.get(name)

    def integers(self, name: str) -> list[int] | None:
        array = self.constant(name)
        return None if array is None else [int(value) for value in array.ravel()]


def replace_reads(graph: Graph, old: str, new: str) -> None:
    """Every reader of one tensor reads another instead."""
    for node in graph.nodes:
        node.inputs = [new if name == old else name for name in node.inputs]
