"""Drops what nothing reads, and steps that a neighbour makes needless."""

from __future__ import annotations

from export.lower.graph import Graph
from export.lower.rewrites.index import Index, replace_reads

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")


def drop_dead_code(graph: Graph) -> None:
    """Keeps the nodes and constants that some output depends on."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
    graph.nodes = [node for node in graph.nodes if needed.intersection(node.outputs)]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}


def merge_reshapes(graph: Graph) -> None:
    """A reshape of a reshape needs only the last."""
    index = Index(graph)
    for node in graph.nodes:
        if node.op != "Reshape":
            continue
        while (before := index.producer(node.inputs[0], *_RESHAPES)) is not None:
            node.inputs[0] = before.inputs[0]


def rename_outputs(graph: Graph) -> None:
    """A node that writes nothing but a graph output writes it under the output's name."""
    for node in [node for node in graph.nodes if node.op == "Identity"]:
        source, name = node.inputs[0], node.outputs[0]
        producer = Index(graph).producers.get(source)
        if producer is None or source in graph.outputs:
            continue
        graph.nodes.remove(node)
        producer.outputs = [name if output == source else output for output in producer.outputs]
        replace_reads(graph, source, name)
