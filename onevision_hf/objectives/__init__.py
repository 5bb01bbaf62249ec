"""The losses, one per file: small modules that know no trainer and nothing else of the package."""

from .cluster import ClusterDiscriminationLoss, draw_together
from .cluster_memory import cluster_memory
from .row_sparse_adamw import RowSparseAdamW

__all__ = ["ClusterDiscriminationLoss", "RowSparseAdamW", "cluster_memory", "draw_together"]
