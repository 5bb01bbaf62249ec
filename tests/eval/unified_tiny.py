"""A unified model's folder, pictures, and networks that stand in for those whose weights are fetched."""

import json

import numpy as np
import torch
from PIL import Image
from torch import nn
from vae import tiny_vae

from onevision_hf import OpenVision3Config, UnifiedForPreTraining, UnifiedPreTrainingConfig
from onevision_hf.modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from onevision_hf.pretraining.tokenizer import load_tokenizer

SIDE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


class RandomFeatures(nn.Module):
    """In Inception's place: 8 random projections of the picture as features, and 5 more as logits."""

    def __init__(self, side=SIDE):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weights", torch.randn(3 * side * side, 13, generator=generator) / side)

    def forward(self, pictures):
        found = pictures.flatten(1).float() / 255 @ self.weights
        return found[:, :8], found[:, 8:]


class PixelDistance(nn.Module):
    """In LPIPS's place."""

    def forward(self, one, two):
        return (one - two).square().mean((1, 2, 3), keepdim=True)


def save_model(folder, seed=0):
    """A `UnifiedForPreTraining` with random weights, its VAE, tokenizer and processor."""
    tiny_vae().save_pretrained(folder / "vae")
    tokenizer = load_tokenizer()
    torch.manual_seed(seed)
    encoder = OpenVision3Config.tiny(**TOWER, projection_dim=24, vae_name_or_path=str(folder / "vae"))
    text = TOWER | {"max_positions": 32}
    config = UnifiedPreTrainingConfig(
        encoder,
        decoder_config=TOWER,
        text_config=text,
        caption_config=text,
        vocab_size=len(tokenizer),
        vae_name_or_path=str(folder / "vae"),
    )
    model = UnifiedForPreTraining(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    crop = {"height": SIDE, "width": SIDE}
    OpenVision3ImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop).save_pretrained(folder / "model")
    return folder / "model"


def save_pictures(folder, classes=("blue-disc", "red-disc"), each=4, side=SIDE):
    """A folder of pictures for each class: a ground of its own with a square somewhere."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = np.full((side, side, 3), 60, np.uint8)
            pixels[..., 2 - 2 * (number % 2)] = 200
            y, x = rng.integers(0, side - 9, 2)
            pixels[y : y + 9, x : x + 9] = rng.integers(0, 255, 3)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def read_json(text):
    return json.loads(text.splitlines()[-1])
