"""Any encoder behind one door: what a probe gets of it is what the model itself gives.

Run: python -m pytest tests/eval/test_probe_encoders.py
"""

import json
import math

import numpy as np
import pytest
import torch
from probe_clips import save_encoder
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VJEPA2Config,
    VJEPA2Model,
)

from onevision_hf.eval.probes.clip_transform import shown_size
from onevision_hf.eval.probes.config import InputConfig, ProbeConfig
from onevision_hf.eval.probes.encoders import load_frozen, sines
from onevision_hf.eval.probes.run import clip_settings
from onevision_hf.modeling.grid_pooling import grid_means
from onevision_hf.modeling.patch_inputs import cut_patches, grid_positions
from onevision_hf.training.config import ConfigError

VISION = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 99}  # fmt: skip
MAKERS = {
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=32)),
    "siglip2": lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)),
    "siglip2 tower": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**VISION, num_register_tokens=4)),
    "vjepa2": lambda: VJEPA2Model(
        VJEPA2Config(
            crop_size=32, patch_size=8, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
            frames_per_clip=4, tubelet_size=2, mlp_ratio=2, pred_hidden_size=24, pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        )
    ),
}  # fmt: skip
PREFIX = {"clip": 1, "dinov3": 5}
GRID = 16
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    save_encoder(folder / "onevision")
    return folder


def two_clips():
    """A clip of four frames and one of two, padded: pixels (2, 4, 3, 32, 32), patches, positions, mask."""
    pixels = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    patches, grid = cut_patches(pixels.transpose(1, 2), 8)
    positions = grid_positions(*grid).expand(2, -1, -1).clone()
    positions[..., 0] *= 21
    mask = torch.ones(2, 4 * GRID, dtype=torch.bool)
    mask[1, 2 * GRID :] = False
    positions[1, 2 * GRID :] = 0
    return pixels, patches, positions, mask


@pytest.mark.parametrize("name", ["clip", "siglip2", "siglip2 tower", "dinov3"])
def test_images_give_their_frames_tokens_with_the_published_time(saved, name):
    encoder = load_frozen(str(saved / name))
    patchify = encoder.patchify
    assert (patchify.layout.patch_size, shown_size(patchify), encoder.hidden_size) == (8, 32, 64)
    assert list(patchify.pixels.image_mean) == [0.1, 0.2, 0.3] and encoder.kinds == ("frames",)
    pixels, patches, positions, mask = two_clips()
    tokens = encoder(patches, positions, mask)
    model = AutoModel.from_pretrained(saved / name).eval()
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        alone = tower(pixel_values=pixels.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 4))
    count = GRID + PREFIX.get(name, 0)
    expected = (alone + sines(4, 64, alone.device)[:, None]).flatten(1, 2)
    assert tokens.mask.sum(1).tolist() == [4 * count, 2 * count]
    torch.testing.assert_close(tokens.states[tokens.mask], expected[tokens.mask], rtol=1e-4, atol=1e-5)
    # Class and register tokens stand at the corner of their frame, the others where their patch is.
    assert tokens.positions[0, : count - GRID, 1:].eq(0).all()
    assert torch.equal(tokens.positions[0].view(4, count, 3)[:, count - GRID :].flatten(0, 1), positions[0])
    unpadded = encoder(patches[1:, : 2 * GRID], positions[1:, : 2 * GRID], None)
    torch.testing.assert_close(unpadded.states[0], tokens.states[1][tokens.mask[1]], rtol=1e-4, atol=1e-5)
    features = encoder.features(patches, positions, mask)
    alone_again = encoder.features(patches[1:, : 2 * GRID], positions[1:, : 2 * GRID], None)
    for pooling, feature in features.items():
        torch.testing.assert_close(alone_again[pooling], feature[1:], rtol=1e-4, atol=1e-5)
    # Of the patches alone: class and register tokens, and the frames' numbers, are in none of the means.
    patches_only = alone[:, :, count - GRID :]
    torch.testing.assert_close(features["tokens"][0], patches_only[0].mean((0, 1)), rtol=1e-4, atol=1e-5)
    grid = features["grid"][0].view(4, 2, 2, 64)
    corner = patches_only[0].view(4, 4, 4, 64)[:, :2, :2].mean((1, 2))
    torch.testing.assert_close(grid[:, 0, 0], corner, rtol=1e-4, atol=1e-5)


def test_vjepa_sees_pairs_of_frames_and_a_last_one_twice(saved):
    encoder = load_frozen(str(saved / "vjepa2"))
    pixels, patches, positions, mask = two_clips()
    tokens = encoder(patches, positions, mask)
    model = AutoModel.from_pretrained(saved / "vjepa2").eval()
    with torch.no_grad():
        whole = model(pixel_values_videos=pixels[:1], skip_predictor=True).last_hidden_state[0]
    expected = whole + sines(2, 64, whole.device).repeat_interleave(GRID, 0)
    torch.testing.assert_close(tokens.states[0], expected, rtol=1e-4, atol=1e-5)
    assert tokens.mask.sum(1).tolist() == [2 * GRID, GRID]
    assert tokens.positions[0, ::GRID].tolist() == [[0, 0, 0], [42, 0, 0]]
    features = encoder.features(patches, positions, mask)
    assert set(features) == {"tokens", "grid"}  # it has no pooled output
    torch.testing.assert_close(features["tokens"][0], whole.mean(0), rtol=1e-4, atol=1e-5)
    odd = encoder(patches[:1, : 3 * GRID], positions[:1, : 3 * GRID], None)
    doubled = torch.cat([patches[:1, : 3 * GRID], patches[:1, 2 * GRID : 3 * GRID]], 1)
    torch.testing.assert_close(odd.states, encoder(doubled, positions[:1], None).states)


def test_the_embedding_of_time_is_the_published_one():
    expected = np.zeros((3, 6))
    for t in range(3):
        for i in range(3):
            angle = t * math.exp(2 * i * -math.log(10000.0) / 6)
            expected[t, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    np.testing.assert_allclose(sines(3, 6, torch.device("cpu")), expected, atol=1e-6)


def test_onevision_is_as_it_is_and_takes_every_input(saved):
    encoder = load_frozen(str(saved / "onevision"))
    assert encoder.kinds == ("codec", "frames", "dense") and shown_size(encoder.patchify) == 224
    assert not any(p.requires_grad for p in encoder.parameters()) and not encoder.train().model.training
    patches = torch.randn(1, 5, 3 * 14 * 14)
    positions = torch.randint(0, 4, (1, 5, 3))
    with torch.no_grad():
        expected = encoder.model(pixel_values_videos=patches, patch_positions=positions)
    assert torch.equal(encoder(patches, positions, None).states, expected.last_hidden_state)
    features = encoder.features(patches, positions, None)
    assert torch.equal(features["pooler"], expected.pooler_output)
    torch.testing.assert_close(features["tokens"], expected.last_hidden_state.mean(1))
    assert torch.equal(features["grid"], grid_means(expected.last_hidden_state, positions))


def test_an_input_that_an_encoder_cannot_take_and_a_model_that_is_none_are_errors(saved, tmp_path):
    encoder = load_frozen(str(saved / "dinov3"))
    with pytest.raises(ConfigError, match=r"input is 'codec', but .*sees whole frames only"):
        clip_settings(ProbeConfig(model="dinov3"), encoder)

    def shown(**changes):
        return clip_settings(ProbeConfig(model="m", input=InputConfig(kind="frames", **changes)), encoder)

    settings = shown(num_patches=4 * GRID, max_size=224)  # which is for encoders of any size
    assert (settings.num_patches, shown_size(settings.config)) == (4 * GRID, 32)
    assert list(settings.config.pixels.image_std) == [0.4, 0.5, 0.6]
    # Without a budget it sees eight whole frames, however large they are.
    assert shown().num_patches == 8 * GRID and shown(size=16).num_patches == 8 * GRID // 4
    with pytest.raises(OSError, match="nowhere"):
        load_frozen("./nowhere")
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                         vocab_size=99)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ConfigError, match="is a bert, whose configuration names no image_size"):
        load_frozen(str(tmp_path))
