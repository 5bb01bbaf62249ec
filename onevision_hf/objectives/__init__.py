"""The losses, one per file: small modules that know no trainer and nothing else of the package."""

from .cluster import ClusterDiscriminationLoss, draw_together
from .row_sparse_adamw import RowSparseAdamW

__all__ = ["ClusterDiscriminationLoss", "RowSparseAdamW", "draw_together"]
