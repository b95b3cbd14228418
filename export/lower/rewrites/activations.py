"""Activations that JAX writes as several operations and engines know as one."""

from __future__ import annotations

import numpy as np

from export.lower.graph import Graph, Node
from export.lower.rewrites.index import Index


def name_leaky_relus(graph: Graph) -> None:
    """where(x >= 0, x, slope * x) becomes LeakyRelu."""
    index = Index(graph)
    for node in graph.nodes:
        if node.op == "Where" and (slope := _slope(index, node)) is not None:
            node.op, node.inputs, node.attributes = "LeakyRelu", [node.inputs[1]], {"alpha": slope}


def _slope(index: Index, where: Node) -> float | None:
    condition, x, scaled = where.inputs
    compare = index.producer(condition, "GreaterOrEqual", "Greater")
    product = index.producer(scaled, "Mul")
    if compare is None or product is None or compare.inputs[0] != x or x not in product.inputs:
        return None
    zero = index.constant(compare.inputs[1])
    slope = index.constant(next((name for name in product.inputs if name != x), x))
    if zero is None or slope is None or zero.size != 1 or slope.size != 1 or np.any(zero != 0):
        return None
    return float(slope.reshape(()))
