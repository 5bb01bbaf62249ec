"""Unified pre-training: one encoder whose tokens are rebuilt, described, and matched with texts.

    model = UnifiedForPreTraining(UnifiedPreTrainingConfig(OpenVision3Config.base()))
    output = model(pixel_values=images, input_ids=ids, attention_mask=mask)     # images in [-1, 1]
    output.loss, output.losses                       # the sum, and each loss by its name
    model.reconstruct(images)                        # (B, 3, H, W)
    model.generate_caption(pixel_values=images, tokenizer=tokenizer)            # list of B texts

arXiv 2601.15369, section 3. Shapes: B images, H x W pixels, N tokens on a grid of gh x gw, D width of the
encoder, E features, T texts an image, L tokens of a text, C channels and h x w grid of the latents.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init

from ..modeling.complete_weights import CompleteWeights
from ..modeling.configuration_openvision3 import OpenVision3Config
from ..modeling.modeling_onevision import OneVisionModel
from ..modeling.modeling_openvision3 import OpenVision3Model
from ..modeling.vae_openvision3 import HoldsVAE, check_latents
from ..objectives.captioning import caption_targets, caption_terms
from ..objectives.collectives import mean_over_processes
from ..objectives.contrastive import capped_scale, contrastive_loss
from ..objectives.reconstruction import add_noise, mean_absolute_error
from .configuration_unified import UnifiedPreTrainingConfig
from .inputs import check_images, first_given, text_mask, texts_and_captions
from .outputs import PIXELS, REBUILD, Encoded, Grid, Part, UnifiedPreTrainingOutput
from .perceptual import load_lpips, perceptual_distance
from .towers import CaptionDecoder, LatentDecoder, TextEncoder


class UnifiedForPreTraining(HoldsVAE, CompleteWeights, PreTrainedModel):
    """An encoder with a ViT decoder, a text encoder and a caption decoder.

    The VAE, and LPIPS where it has a weight, are held beside it: not in the state dict, not trained, moved
    with `.to()`. They come from `config.vae_name_or_path` and torch.hub's folder when they are first needed,
    or from `set_vae` and `set_lpips`.

    Args:
        config: the encoder, the heads and the losses' weights.
    """

    config: UnifiedPreTrainingConfig
    config_class = UnifiedPreTrainingConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["SiglipEncoderLayer", "OneVisionLayer", "OneVisionPoolingHead", "TextLayer"]
    _lpips: Any = None

    def __init__(self, config: UnifiedPreTrainingConfig):
        super().__init__(config)
        self.encoder: Any
        if isinstance(config.encoder_config, OpenVision3Config):
            self.encoder = OpenVision3Model(config.encoder_config)
            self.image_projection = None  # the encoder has its own
        else:
            self.encoder = OneVisionModel(config.encoder_config)
            self.image_projection = nn.Linear(
                config.encoder_config.hidden_size, config.projection_dim, bias=False
            )
        width = config.encoder_config.hidden_size
        self.decoder = LatentDecoder(config.decoder_config, width, config.latent_channels, config.patch_size)
        self.text_encoder = TextEncoder(config.text_config, config.projection_dim)
        self.caption_decoder = CaptionDecoder(config.caption_config, width)
        # (1,), not (): FSDP2 cuts no scalars.
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1)) if config.contrastive_form == "sigmoid" else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UnifiedForPreTraining):
            sigmoid = module.logit_bias is not None
            init.constant_(module.logit_scale, math.log(10 if sigmoid else 1 / 0.07))
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, -10.0)

    # -- what it learns --

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        latents: Tensor | None = None,
        caption_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
        noise_seeds: Tensor | None = None,
        contrastive_chunk: int | None = None,
        **selection: Any,
    ) -> UnifiedPreTrainingOutput:
        r"""
        Every loss that has a weight, over the batches of all processes; each process calls this.

        Args:
            pixel_values: (B, 3, H, W) in [-1, 1], sides multiples of 16 (and of a OneVision encoder's patch).
            input_ids: (B, L), or (B, T, L) with T texts an image, for the contrastive loss: mark of the
                beginning, words, mark of the end, padding on the right.
            attention_mask: of the same shape, 1 where a token is real; left out, where a token is not
                `pad_token_id`.
            latents: (B, C, h, w), cached ones instead of the VAE's encoder. Losses of pixels need both.
            caption_ids: (B, L) to describe the image with; left out, the first text.
            caption_attention_mask: (B, L), 1 where a token is real.
            noise_seeds: (B,) int64, of each image's noise; left out, drawn from torch's generator.
            contrastive_chunk: instead of the config's.
            **selection: refused: sparse selections have no image to give back.

        Raises:
            ValueError: something that a loss with a weight needs is not there, has another shape or another
                grid, or is a sparse selection.
            MissingVAEError, MissingLPIPSError: there is none where one is needed.
        """
        config, weights = self.config, self.config.loss_weights
        if not weights:
            raise ValueError(f"every weight is 0: give one of {', '.join(config.weight_names)}")
        check_images(pixel_values, selection)
        texts, captions = texts_and_captions(
            config, input_ids, attention_mask, caption_ids, caption_attention_mask
        )
        lacking = [name for name in PIXELS if name in weights and pixel_values is None]
        if lacking:
            raise ValueError(
                f"the loss {lacking[0]} compares pixels: give pixel_values beside latents, or set "
                "pixel_weight and lpips_weight to 0"
            )
        batch = len(first_given(pixel_values, latents))
        chunk = config.contrastive_chunk if contrastive_chunk is None else contrastive_chunk
        size = chunk or batch
        if latents is None and (self._reads_latents or any(name in weights for name in REBUILD)):
            assert pixel_values is not None
            latents = torch.cat([self.encode_pixels(part) for part in pixel_values.split(size)])
        if noise_seeds is None and self.training:
            noise_seeds = torch.randint(2**62, (batch,), device=self.device)
        rows = (pixel_values, latents, *texts, *captions, noise_seeds)
        parts = []
        for start in range(0, batch, size):
            own = [None if row is None else row[start : start + size] for row in rows]
            if size < batch and torch.is_grad_enabled():
                # Computed again, a chunk at a time, in the backward pass: the memory of a chunk.
                parts.append(checkpoint(self._part, *own, use_reentrant=False))
            else:
                parts.append(self._part(*own))
        return self._summed(parts, weights)

    def _part(
        self,
        pixels: Tensor | None,
        latents: Tensor | None,
        text_ids: Tensor | None,
        text_mask: Tensor | None,
        caption_ids: Tensor | None,
        caption_mask: Tensor | None,
        seeds: Tensor | None,
    ) -> Part:
        config, weights = self.config, self.config.loss_weights
        tokens, grid, features = self.encode(None if self._reads_latents else pixels, latents)
        count = torch.tensor(float(len(tokens)), device=tokens.device)
        sums = {"tokens": tokens.detach().float().square().mean((1, 2)).sum()}
        counts = {"tokens": count}

        def add(name: str, per_image: Tensor) -> None:
            sums[name], counts[name] = per_image.sum(), count

        if any(name in weights for name in REBUILD):
            assert latents is not None
            source = tokens.detach() if config.detach_reconstruction else tokens
            rebuilt = self._rebuild(source, grid, seeds if self.training else None)
            if rebuilt.shape != latents.shape:
                raise ValueError(
                    f"tokens on a grid of {grid[0]} x {grid[1]} give latents {tuple(rebuilt.shape)}, the "
                    f"target is {tuple(latents.shape)}: latents and pixels of one size are needed"
                )
            if "latent" in weights:
                add("latent", mean_absolute_error(rebuilt, latents))
            if any(name in weights for name in PIXELS):
                assert pixels is not None
                image = self.decode_latents(rebuilt)
                if "pixel" in weights:
                    add("pixel", mean_absolute_error(image, pixels))
                if "lpips" in weights:
                    add("lpips", perceptual_distance(self.lpips, image, pixels))
        source = tokens.detach() if config.detach_understanding else tokens
        image_features = text_features = None
        if "caption" in weights:
            assert caption_ids is not None and caption_mask is not None
            logits = self.caption_decoder(caption_ids[:, :-1], source).logits
            sums["caption"], counts["caption"] = caption_terms(
                logits, caption_targets(caption_ids, caption_mask)
            )
        if "contrastive" in weights:
            assert text_ids is not None and text_mask is not None
            image_features = self._pool(source) if config.detach_understanding else features
            text_features = self.text_encoder(text_ids.flatten(0, 1), text_mask.flatten(0, 1))
            text_features = text_features.unflatten(0, text_ids.shape[:2])
        return Part(sums, counts, tokens, image_features, text_features)

    def _summed(self, parts: list[Part], weights: dict[str, float]) -> UnifiedPreTrainingOutput:
        names = list(parts[0].sums)
        sums = torch.stack([torch.stack([part.sums[name] for part in parts]).sum() for name in names])
        counts = torch.stack([torch.stack([part.counts[name] for part in parts]).sum() for name in names])
        means = dict(zip(names, mean_over_processes(sums, counts), strict=True))
        rms = means.pop("tokens").detach().sqrt()
        metrics = {"token_rms": rms, "noise_share": self.config.noise_tau / rms}
        images = texts = None
        if "contrastive" in weights:
            images = torch.cat([part.image_features for part in parts])  # type: ignore[misc]
            texts = torch.cat([part.text_features for part in parts])  # type: ignore[misc]
            means["contrastive"], metrics["contrastive_accuracy"] = contrastive_loss(
                images, texts, self.logit_scale, self.logit_bias, form=self.config.contrastive_form
            )
            metrics["logit_scale"] = capped_scale(self.logit_scale.detach()).sum()
        return UnifiedPreTrainingOutput(
            loss=torch.stack([weights[name] * means[name] for name in weights]).sum(),
            losses={name: means[name] for name in weights},
            metrics=metrics,
            tokens=torch.cat([part.tokens for part in parts]),
            image_features=images,
            text_features=texts,
        )

    # -- what it can do --

    def encode(self, pixel_values: Tensor | None = None, latents: Tensor | None = None) -> Encoded:
        """Images (B, 3, H, W) in [-1, 1], or cached latents where the encoder reads those -> its last tokens
        (B, N, D), without noise, their grid, and features.

        Raises ValueError for other shapes, or latents alone for a OneVision encoder; `MissingVAEError`.
        """
        check_images(pixel_values)
        if not self._reads_latents:
            if pixel_values is None:
                raise ValueError("a OneVision encoder reads pixels: give pixel_values, not latents alone")
            mean, std = (
                torch.tensor(values, device=pixel_values.device, dtype=torch.float32)[:, None, None]
                for values in (self.config.image_mean, self.config.image_std)
            )
            found = self.encoder(((pixel_values.float() + 1) / 2 - mean) / std)
            height, width = pixel_values.shape[-2:]
        else:
            if latents is None:
                latents = self.encode_pixels(first_given(pixel_values, latents))
            check_latents(latents, self.encoder.config)
            found = self.encoder(latents=latents)
            height, width = latents.shape[-2] * 8, latents.shape[-1] * 8
        stride = self.config.encoder_stride
        features = found.pooler_output
        if self.image_projection is not None:
            features = self.image_projection(features)
        return Encoded(found.last_hidden_state, (height // stride, width // stride), features)

    def decode(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, N, D) on the encoder's grid (gh, gw), N = gh * gw -> images (B, 3, H, W), about in
        [-1, 1]; no noise is added, and gradients reach the tokens through the frozen VAE.

        Raises ValueError for another number of tokens, as of a sparse selection, or a grid whose images have
        sides that are not multiples of 16; `MissingVAEError`.
        """
        return self.decode_latents(self._rebuild(tokens, grid, None))

    @torch.no_grad()
    def reconstruct(self, pixel_values: Tensor | None = None, latents: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], or latents -> what the decoder makes of their tokens, in [-1, 1].

        Raises as `encode` and `decode`.
        """
        encoded = self.encode(pixel_values, latents)
        return self.decode(encoded.tokens, encoded.grid).clamp(-1, 1)

    def get_image_features(self, pixel_values: Tensor | None = None, latents: Tensor | None = None) -> Tensor:
        """The images' features (B, E), not normalised. Raises as `encode`."""
        return self.encode(pixel_values, latents).features

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Texts (B, L), padded on the right -> features (B, E), not normalised. Raises ValueError for texts
        longer than `text_config.max_positions`."""
        return self.text_encoder(input_ids, text_mask(self.config, input_ids, attention_mask))

    @torch.no_grad()
    def generate_caption(
        self,
        pixel_values: Tensor | None = None,
        latents: Tensor | None = None,
        tokenizer: Any = None,
        **generate: Any,
    ) -> Any:
        """Captions of a batch of images.

        Args:
            pixel_values: (B, 3, H, W) in [-1, 1].
            latents: (B, C, h, w), instead of pixels.
            tokenizer: makes texts of the token ids.
            **generate: arguments of transformers' `generate`: max_new_tokens (default: what the decoder has
                positions for), num_beams, do_sample...

        Returns:
            token ids (B, L), from the mark of the beginning on, padded after that of the end; with a
            tokenizer, B texts.

        Raises:
            ValueError: as `encode`.
        """
        tokens = self.encode(pixel_values, latents).tokens
        config = self.config
        begin = torch.full((len(tokens), 1), config.bos_token_id, device=tokens.device)
        settings = {
            "max_new_tokens": config.caption_config.max_positions - 1,
            "do_sample": False,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
        }
        ids = self.caption_decoder.generate(begin, prefix=tokens, **settings | generate)
        return ids if tokenizer is None else tokenizer.batch_decode(ids, skip_special_tokens=True)

    # -- what it holds --

    def set_vae(self, vae: nn.Module) -> None:
        super().set_vae(vae)
        if self._reads_latents:
            self.encoder.set_vae(vae)  # so that the encoder alone reads pixels too

    @property
    def lpips(self) -> Any:
        """The module that `set_lpips` gave, or LPIPS from torch.hub's folder. Raises `MissingLPIPSError`."""
        if self._lpips is None:
            self.set_lpips(load_lpips())
        return self._lpips

    def set_lpips(self, module: nn.Module) -> None:
        """Compare images with `module(images, images)`, (B, 3, H, W) in [-1, 1] -> (B, ...), from now on."""
        object.__setattr__(self, "_lpips", module.eval().requires_grad_(False))

    def freeze_idle(self, pooled: bool = False) -> None:
        """Set `requires_grad` of what no loss with a weight reaches to False: data parallelism waits for the
        gradient of everything else. `pooled`: another loss learns from the encoder's pooled output.
        """
        config, weights = self.config, self.config.loss_weights
        rebuilds = any(name in weights for name in REBUILD)
        contrasts, captions = "contrastive" in weights, "caption" in weights
        reached = (rebuilds and not config.detach_reconstruction) or (
            (contrasts or captions) and not config.detach_understanding
        )
        pooling = (
            [self.encoder.post_layernorm, self.encoder.visual_projection]
            if self._reads_latents
            else [self.encoder.head]
        )
        idle: list[Any] = []
        if not (reached or pooled):
            kept = {p for module in pooling for p in module.parameters()}
            idle += [p for p in self.encoder.parameters() if p not in kept]
        if not (contrasts or pooled):
            idle += [p for module in pooling for p in module.parameters()]
        if not rebuilds:
            idle += self.decoder.parameters()
        if not captions:
            idle += self.caption_decoder.parameters()
        if not contrasts:
            idle += [*self.text_encoder.parameters(), self.logit_scale]
            idle += [] if self.logit_bias is None else [self.logit_bias]
            idle += [] if self.image_projection is None else self.image_projection.parameters()
        for parameter in idle:
            parameter.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    # -- what they share --

    @property
    def _reads_latents(self) -> bool:
        return isinstance(self.encoder, OpenVision3Model)

    def _rebuild(self, tokens: Tensor, grid: Grid, seeds: Tensor | None) -> Tensor:
        """Tokens (B, N, D) on the encoder's grid -> latents, with noise where there are seeds for it."""
        height, width = grid
        if tokens.ndim != 3 or tokens.shape[1] != height * width:
            raise ValueError(
                f"tokens are {tuple(tokens.shape)}, a grid of {height} x {width} has {height * width}: the "
                "decoder rebuilds whole images, not a sparse selection of their patches"
            )
        ours, theirs = self.config.encoder_stride, self.config.decoder_stride
        if ours != theirs:
            if height * ours % theirs or width * ours % theirs:
                side = math.lcm(ours, theirs)
                raise ValueError(
                    f"a grid of {height} x {width} tokens of {ours} pixels makes {height * ours} x "
                    f"{width * ours} pixels; the VAE's decoder makes multiples of {theirs}: give images "
                    f"whose sides are multiples of {side}"
                )
            grid = (height * ours // theirs, width * ours // theirs)
            plane = tokens.transpose(1, 2).unflatten(2, (height, width))  # (B, D, gh, gw)
            plane = F.interpolate(plane.float(), grid, mode="bilinear", antialias=True).to(tokens.dtype)
            tokens = plane.flatten(2).transpose(1, 2)
        if seeds is not None and self.config.noise_tau:
            tokens = add_noise(tokens, self.config.noise_tau, seeds).tokens
        return self.decoder(tokens, grid)

    def _pool(self, tokens: Tensor) -> Tensor:
        """The features (B, E) of tokens as the encoder makes them, for tokens that lead no gradient back."""
        if self._reads_latents:
            return self.encoder.visual_projection(self.encoder.post_layernorm(tokens.mean(dim=1)))
        assert self.image_projection is not None
        return self.image_projection(self.encoder.head(tokens))


__all__ = ["UnifiedForPreTraining"]
