"""Exact rewrites of a finished graph: fewer nodes, the same answers up to rounding."""

from export.lower.graph import Graph
from export.lower.rewrites.activations import name_leaky_relus
from export.lower.rewrites.affine import fold_affine_into_convolutions
from export.lower.rewrites.blocks import activate_before_block_moves, name_block_moves
from export.lower.rewrites.cleanup import drop_dead_code, merge_reshapes, rename_outputs
from export.lower.rewrites.resizes import merge_resizes


def simplify(graph: Graph) -> None:
    """All rewrites, in an order in which each finds what the ones before it have uncovered."""
    merge_reshapes(graph)
    drop_dead_code(graph)
    merge_resizes(graph)
    name_block_moves(graph)
    drop_dead_code(graph)
    fold_affine_into_convolutions(graph)
    name_leaky_relus(graph)
    drop_dead_code(graph)
    activate_before_block_moves(graph)
    rename_outputs(graph)
    drop_dead_code(graph)
