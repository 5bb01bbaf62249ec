"""The losses, one per file: small modules that know no trainer and nothing else of the package."""

from .captioning import caption_targets, caption_terms, prefix_lm_mask
from .cluster import ClusterDiscriminationLoss, draw_together
from .cluster_memory import cluster_memory
from .contrastive import LOGIT_SCALE_CAP, capped_scale, contrastive_loss
from .reconstruction import add_noise, mean_absolute_error
from .row_sparse_adamw import RowSparseAdamW

__all__ = [
    "LOGIT_SCALE_CAP",
    "ClusterDiscriminationLoss",
    "RowSparseAdamW",
    "add_noise",
    "capped_scale",
    "caption_targets",
    "caption_terms",
    "cluster_memory",
    "contrastive_loss",
    "draw_together",
    "mean_absolute_error",
    "prefix_lm_mask",
]
