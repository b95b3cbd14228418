"""All rules: importing the modules of each family registers theirs."""

import export.lower.convolutions
import export.lower.elementwise
import export.lower.indexing
import export.lower.products
import export.lower.reductions
import export.lower.reshapes  # noqa: F401
from export.lower.registry import RULES

__all__ = ["RULES"]
