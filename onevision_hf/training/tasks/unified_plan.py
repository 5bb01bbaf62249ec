"""The plan of the tasks `unified` and `openvision3`."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...data.captions import open_pairs
from ...modeling.vae_openvision3 import MissingVAEError, load_vae
from ...pretraining import MissingLPIPSError, UnifiedForPreTraining, load_lpips
from ...pretraining.tokenizer import load_tokenizer
from ..dry_run.dummy_data import DummyPairs
from ..dry_run.planned import LayerGroup, SmallRun, find
from .cluster_plan import HeadsPlan, without_absent_start
from .task import make_task
from .unified import UnifiedTask
from .unified_config import PAIRS, UnifiedTrainConfig
from .unified_model import model_config, unified_patchify


class UnifiedPlan(HeadsPlan):
    """See `Planned`."""

    def __init__(self, config: UnifiedTrainConfig, folder: Path):
        config, self.lines = without_absent_start(config)
        self.config, self.folder, pairs = config, folder, config.unified.pairs
        model = model_config(config, load_tokenizer(config.unified.tokenizer))
        self.find_heads(unified_patchify(config, model))
        opening = partial(open_pairs, pairs.source, pairs.image_column, pairs.caption_columns)
        self.pairs, absent = find(PAIRS, opening, partial(DummyPairs, pairs.size), "random images instead")
        found = f"{PAIRS}: {len(self.pairs)} images with captions at {pairs.source}"
        self.lines.append(absent or found)
        if pairs.latents is not None and (absent or not Path(pairs.latents).exists()):
            self.config = copy.deepcopy(config)
            self.config.unified.pairs.latents = None
            self.lines.append(f"latents: none of these images at {pairs.latents}; pixels are encoded instead")
        self.task: UnifiedTask = make_task(self.config, self.datasets | {PAIRS: self.pairs})

    def parameters(self) -> dict[str, int]:
        with torch.device("meta"):
            model = UnifiedForPreTraining(self.task.model_config)
        parts = ("encoder", "decoder", "text_encoder", "caption_decoder")
        return {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in parts}

    def layer_groups(self) -> list[LayerGroup]:
        unified, config, weights = self.config.unified, self.task.model_config, set(self.task.weights)
        pairs = unified.pairs
        tokens = (pairs.size // self.task.stride) ** 2
        rebuilt = (pairs.size // config.decoder_stride) ** 2
        passes = [
            (True, config.encoder_config, tokens, 1),
            (bool(weights & {"pixel", "latent", "lpips"}), config.decoder_config, rebuilt, 1),
            ("caption" in weights, config.caption_config, tokens + config.caption_config.max_positions, 1),
            ("contrastive" in weights, config.text_config, config.text_config.max_positions, pairs.texts),
        ]
        return super().layer_groups() + [
            LayerGroup(
                PAIRS, pairs.batch_size * texts, length, tower.hidden_size, tower.num_hidden_layers,
                unified.contrastive_chunk,
            )
            for wanted, tower, length, texts in passes
            if wanted
        ]  # fmt: skip

    def shrink(self, small: SmallRun) -> None:
        super().shrink(small)
        pairs = small.config.unified.pairs
        pairs.batch_size = small.batch_size(pairs.batch_size)
        small.notes.append(f"{PAIRS}: {pairs.batch_size} samples")
        small.datasets[PAIRS] = self.pairs
        self._replace_frozen(small)

    def _replace_frozen(self, small: SmallRun) -> None:
        """Where the VAE or LPIPS is not there."""
        unified = small.config.unified
        if unified.lpips_weight:
            try:
                load_lpips(unified.lpips_weights)
            except MissingLPIPSError as error:
                small.lines.append(f"LPIPS: left out ({str(error).partition(':')[0]})")
                unified.lpips_weight = 0.0
        found: Any = model_config(small.config, load_tokenizer(unified.tokenizer))
        try:
            load_vae(found)
        except MissingVAEError as error:
            folder = self.folder / "vae"
            small.lines.append(dummy_vae(found, folder, small.on_cpu, error))
            unified.vae = str(folder)


def dummy_vae(config: Any, folder: Path, small: bool, error: MissingVAEError) -> str:
    """Write a VAE of random weights.

    Args:
        config: of the model that wants it.
        folder: to be written.
        small: narrow, or of the published size.
        error: that the real one was missing with.

    Returns:
        A line that says so.
    """
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32] * 4 if small else [128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=config.latent_channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.save_pretrained(folder)
    size = "a small one" if small else "one of the published size"
    return f"VAE: {str(error).partition(':')[0]}; {size}, with random weights, instead"
