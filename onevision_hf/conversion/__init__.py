"""Published checkpoints to ours, and ours to a Hub repository.

    onevision convert openvision3 UCSC-VLAA/openvision3-vit-base-patch2-32 out/base
    onevision push out/base me/openvision3-base --dry-run

One file an adapter, a small object that knows a published layout; `convert` drives any of them from files to
a folder that loads through `AutoModel`.
"""

from onevision_hf.conversion.checkpoint import CheckpointError, CheckpointMismatchError
from onevision_hf.conversion.convert import ADAPTERS, Conversion, convert
from onevision_hf.conversion.onevision_encoder import OneVisionEncoderAdapter
from onevision_hf.conversion.openvision3 import OpenVision3Adapter

__all__ = [
    "ADAPTERS",
    "CheckpointError",
    "CheckpointMismatchError",
    "Conversion",
    "OneVisionEncoderAdapter",
    "OpenVision3Adapter",
    "convert",
]
