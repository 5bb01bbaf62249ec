"""A small unified model, its batch, and a perceptual distance that needs no weights."""

import torch
from torch import nn
from vae import ShuffleVAE, tiny_vae

from onevision_hf import OneVisionConfig, OpenVision3Config, UnifiedForPreTraining, UnifiedPreTrainingConfig

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = TOWER | {"max_positions": 16}
VOCABULARY = 40


class PixelDistance(nn.Module):
    """In LPIPS's place."""

    def forward(self, one, two):
        return (one - two).square().mean((1, 2, 3), keepdim=True)


def small_config(encoder="openvision3", **changes):
    if encoder == "openvision3":
        found = OpenVision3Config.tiny(**TOWER, projection_dim=24)
    else:
        found = OneVisionConfig.tiny(
            num_hidden_layers=1, image_size=112, **({"patch_size": 16} if encoder == "onevision16" else {})
        )
    settings = {
        "decoder_config": TOWER,
        "text_config": TEXT,
        "caption_config": TEXT,
        "vocab_size": VOCABULARY,
        "projection_dim": 24,
    }
    return UnifiedPreTrainingConfig(found, **(settings | changes))


def small_model(encoder="openvision3", vae=None, seed=0, **changes):
    torch.manual_seed(seed)
    model = UnifiedForPreTraining(small_config(encoder, **changes))
    model.set_vae(vae or ShuffleVAE())
    model.set_lpips(PixelDistance())
    # Weights as they are after some steps: with those of the start all tokens of a text are nearly the same.
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def small_batch(images=4, texts=2, side=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 10, (images, texts), generator=generator)
    ids = torch.randint(3, VOCABULARY, (images, texts, 10), generator=generator)
    place = torch.arange(10)
    ids = torch.where(place == 0, 1, torch.where(place == lengths[..., None] - 1, 2, ids))
    ids = torch.where(place < lengths[..., None], ids, 0)
    pixels = torch.rand(images, 3, side, side, generator=generator) * 2 - 1
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": (ids != 0).long()}


def random_vae():
    return tiny_vae()
