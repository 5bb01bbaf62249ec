"""Unified pre-training: an encoder with a ViT decoder, a text encoder and a caption decoder on it."""

from .configuration_unified import TowerConfig, UnifiedPreTrainingConfig
from .modeling_unified import UnifiedForPreTraining
from .outputs import Encoded, UnifiedPreTrainingOutput
from .perceptual import MissingLPIPSError, load_lpips

__all__ = [
    "Encoded",
    "MissingLPIPSError",
    "TowerConfig",
    "UnifiedForPreTraining",
    "UnifiedPreTrainingConfig",
    "UnifiedPreTrainingOutput",
    "load_lpips",
]
