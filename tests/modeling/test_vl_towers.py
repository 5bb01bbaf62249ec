"""Any vision tower behind the connector: its own features, patch for patch, and no codec input.

Run: python -m pytest tests/modeling/test_vl_towers.py
"""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    DINOv3ViTConfig,
    Siglip2VisionConfig,
    SiglipVisionConfig,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from vae import ShuffleVAE
from vl_tiny import prompt, tiny_config, tiny_model, tiny_processor, user

from onevision_hf import OpenVision3Config
from onevision_hf.conversion.multimodal import make_processor
from onevision_hf.modeling.vision_towers import encode_patches, make_tower

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWERS = {
    "siglip": SiglipVisionConfig(**SMALL, patch_size=14, image_size=56),
    "siglip2": Siglip2VisionConfig(**SMALL, patch_size=14, num_patches=16),
    "clip": CLIPVisionConfig(**SMALL, patch_size=14, image_size=56),
    "dinov3": DINOv3ViTConfig(**SMALL, patch_size=14, image_size=56, num_register_tokens=4),
    "qwen3_vl": Qwen3VLVisionConfig(
        hidden_size=32, intermediate_size=64, depth=2, num_heads=2, patch_size=14, out_hidden_size=32,
        num_position_embeddings=16, deepstack_visual_indexes=[0],
    ),
    "openvision3": OpenVision3Config.tiny(vae_name_or_path=None),
}  # fmt: skip


def whole(config, connector="mlp2x_gelu"):
    model = tiny_model(connector, vision=config)
    if config.model_type == "openvision3":
        model.vision_tower.set_vae(ShuffleVAE())
    parts = tiny_processor(model.config)
    colours = ([0.5] * 3, [0.5] * 3)
    return model, make_processor(model.config, parts.tokenizer, colours=colours, video={"size": 56})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
@pytest.mark.parametrize("connector", ["mlp2x_gelu", "patch_merger"])
@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_takes_images_and_uniform_frames_and_no_codec_input(name, connector, clip):
    model, processor = whole(TOWERS[name], connector)
    conversations = [
        user(("image", picture(60, 120)), "a"),
        user(("video", str(clip)), ("image", picture(64, 64)), "b"),
        user("c"),
    ]
    batch = prompt(processor, conversations, num_frames=3)
    together = model(**batch).logits
    for row, conversation in enumerate(conversations):
        alone = model(**prompt(processor, conversation, num_frames=3)).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="use video_mode='frames'"):
        prompt(processor, conversations, num_frames=3, video_mode="codec")


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_features_are_the_towers_own_where_their_patches_are(name):
    """Against the tower called the way its model is documented, in raster order."""
    torch.manual_seed(0)
    config = TOWERS[name]
    tower = make_tower(config).eval()
    vl = tiny_config("patch_merger", vision=config)
    p, grid = vl.vision_patch_size, (4, 6)
    images = torch.randn(3, 3, grid[0] * p, grid[1] * p)
    tiles = images.view(3, 3, grid[0], p, grid[1], p).permute(0, 2, 4, 1, 3, 5).reshape(3, -1, 3 * p * p)
    if name == "openvision3":
        tower.set_vae(ShuffleVAE())
        images = images.clamp(-1, 1)
        tiles = tiles.clamp(-1, 1)
    if name == "siglip2":
        flat = images.view(3, 3, grid[0], p, grid[1], p).permute(0, 2, 4, 3, 5, 1).reshape(3, -1, 3 * p * p)
        own = tower(
            pixel_values=flat, pixel_attention_mask=torch.ones(3, 24),
            spatial_shapes=torch.tensor([grid] * 3), output_hidden_states=True,
        ).hidden_states[-2]  # fmt: skip
    elif name == "qwen3_vl":
        blocks = tiles.view(3, 2, 2, 3, 2, -1).transpose(2, 3).reshape(72, 3, 1, p * p).expand(-1, -1, 2, -1)
        states = tower(
            blocks.reshape(72, -1), grid_thw=torch.tensor([[1, *grid]] * 3), output_hidden_states=True
        ).hidden_states[-2]
        own = states.view(3, 2, 3, 2, 2, -1).transpose(2, 3).reshape(3, 24, -1)
    else:
        options = {"interpolate_pos_encoding": True} if name in ("siglip", "clip") else {}
        own = tower(pixel_values=images, output_hidden_states=True, **options).hidden_states[-2][:, -24:]

    order = torch.randperm(72, generator=torch.Generator().manual_seed(0))
    places = torch.cartesian_prod(torch.arange(3), torch.arange(grid[0]), torch.arange(grid[1]))
    patches, positions = tiles.reshape(72, -1)[order], places[order]
    features = encode_patches(tower, patches, positions, torch.tensor([0, 72]), -2).last_hidden_state
    torch.testing.assert_close(features, own.reshape(72, -1)[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "qwen3_vl"])
def test_parts_of_frames_are_refused_by_the_model_too(name):
    tower = make_tower(TOWERS[name])
    positions = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2))
    for broken in (positions[:-1], torch.cat([positions[:-1], positions[:1]])):
        with pytest.raises(ValueError, match="codec input"):
            encode_patches(tower, torch.randn(len(broken), 588), broken, torch.tensor([0, len(broken)]), -2)


def test_qwens_tower_says_what_blocks_it_needs():
    tower = make_tower(TOWERS["qwen3_vl"])
    positions = torch.cartesian_prod(torch.arange(1), torch.arange(3), torch.arange(2))
    with pytest.raises(ValueError, match="merge_size to 2"):
        encode_patches(tower, torch.randn(6, 588), positions, torch.tensor([0, 6]), -2)


def test_gradients_reach_a_picture_tower():
    model, processor = whole(TOWERS["clip"])
    inputs = prompt(processor, user(("image", Image.fromarray(picture(56, 56))), "a"))
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    weight = next(p for n, p in model.vision_tower.named_parameters() if "patch_embedding" in n)
    assert weight.grad is not None and weight.grad.abs().max() > 0


def test_towers_are_classes_of_the_library():
    for name, config in TOWERS.items():
        if name not in ("qwen3_vl", "openvision3"):
            assert type(make_tower(config)) is type(AutoModel.from_config(config))
