"""The encoder against recorded tensors of the published code, and every form in which pixels reach it.

Run: python -m pytest tests/modeling/test_onevision_model.py
"""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import fresh
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from onevision_hf import OneVisionConfig, OneVisionModel
from onevision_hf.modeling.patch_inputs import cut_patches, grid_positions, trusted_values

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = ["onevision_encoder_layernorm", "onevision_encoder_rmsnorm"]


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def model() -> OneVisionModel:
    torch.manual_seed(0)
    # Wide weights, so that attention is far from uniform and a wrong position shows.
    return OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return torch.randn(2, 3, 4, 42, 56, generator=torch.Generator().manual_seed(1))


def positions_of(indices: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    return grid_positions(*grid)[indices]


def dense_clip(
    patches: torch.Tensor, indices: torch.Tensor, grid: tuple[int, int, int], p: int
) -> torch.Tensor:
    """Put recorded patches (1, K, C*p*p) back into a clip (1, C, T, H, W), zero elsewhere."""
    frames, rows, columns = grid
    tiles = torch.zeros(1, frames * rows * columns, patches.shape[-1])
    tiles[0, indices[0]] = patches[0]
    tiles = tiles.view(1, frames, rows, columns, -1, p, p).permute(0, 4, 1, 2, 5, 3, 6)
    return tiles.reshape(1, -1, frames, rows * p, columns * p)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("folder", PUBLISHED)
def test_every_recorded_tensor_of_the_published_code_is_reproduced(folder, attention):
    recorded = load_file(FIXTURES / folder / "reference.safetensors")
    model = AutoModel.from_pretrained(FIXTURES / folder, attn_implementation=attention).eval()
    assert type(model) is OneVisionModel

    outputs = {"image": model(recorded["image.pixel_values"], output_hidden_states=True)}
    outputs["native"] = model(recorded["native.pixel_values"])
    outputs["video"] = model(
        recorded["video.pixel_values"], patch_positions=recorded["video.patch_positions"]
    )
    indices, grid = recorded["codec.visible_indices"], tuple(recorded["codec.grid_thw"][0].tolist())
    dense = dense_clip(recorded["codec.patches"], indices, grid, model.config.patch_size)
    outputs["codec"] = model(dense, visible_indices=indices)
    outputs["selected"] = model(
        pixel_values_videos=recorded["codec.patches"], patch_positions=positions_of(indices, grid)
    )

    compared = set()
    for form, output in outputs.items():
        prefix = "codec" if form == "selected" else form
        for name in ("last_hidden_state", "pooler_output"):
            assert relative_difference(output[name], recorded[f"{prefix}.{name}"]) <= 2e-5, (form, name)
            compared.add(f"{prefix}.{name}")
    for i, state in enumerate(outputs["image"].hidden_states):
        assert relative_difference(state, recorded[f"image.hidden_states.{i}"]) <= 2e-5, i
        compared.add(f"image.hidden_states.{i}")
    inputs = ("pixel_values", "patch_positions", "patches", "visible_indices", "grid_thw")
    assert compared == {name for name in recorded if name.split(".")[1] not in inputs}


def test_registration_makes_auto_classes_find_ours():
    config = AutoConfig.for_model("onevision_encoder", hidden_size=64, num_attention_heads=2)
    assert type(config) is OneVisionConfig
    with torch.device("meta"):
        assert type(AutoModel.from_config(config)) is OneVisionModel


LOADER = """
import sys, torch
from safetensors.torch import load_file, save_file
from onevision_hf import OneVisionModel
folder, pixels, out = sys.argv[1:]
pixels, results = load_file(pixels)["pixels"], {}
for name, options in {
    "float32": {}, "device_map": {"device_map": "cpu"}, "bfloat16": {"dtype": torch.bfloat16},
}.items():
    poison = [torch.full((n,), float("nan")) for n in (1, 4, 8, 12, 16, 64, 1024, 4096) for _ in range(64)]
    del poison
    model = OneVisionModel.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        results[name] = model(pixels).last_hidden_state.float()
save_file(results, out)
"""


@torch.no_grad()
def test_a_fresh_process_with_poisoned_memory_computes_the_same(model, video, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    save_file({"pixels": video}, tmp_path / "pixels.safetensors")
    names = ("saved", "pixels.safetensors", "out.safetensors")
    fresh(LOADER, *(tmp_path / name for name in names)).check_returncode()

    results = load_file(tmp_path / "out.safetensors")
    expected = model(video).last_hidden_state
    assert torch.equal(results["float32"], expected)
    assert torch.equal(results["device_map"], expected)
    half = OneVisionModel(model.config).eval()
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16)
    assert torch.equal(results["bfloat16"], half(video).last_hidden_state.float())


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_dense_indexed_and_cut_forms_of_the_same_patches_agree(model, video, data):
    patches, grid = cut_patches(video, model.config.patch_size)
    total = patches.shape[1]
    chosen = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=total, unique=True))
    indices = torch.tensor([chosen, chosen[::-1]])
    positions = positions_of(indices, grid)
    cut = patches.gather(1, indices[..., None].expand(-1, -1, patches.shape[-1]))

    expected = model(video, visible_indices=indices)
    for output in (
        model(video, visible_indices=indices, patch_positions=positions),
        model(pixel_values_videos=cut, patch_positions=positions),
        model(pixel_values=cut, patch_positions=positions.int()),
    ):
        torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dense_video_without_positions_lies_on_the_frames_it_has(model, video):
    plain = model(video).last_hidden_state
    positions = grid_positions(4, 3, 4).expand(2, -1, -1)
    assert torch.equal(plain, model(video, patch_positions=positions).last_hidden_state)
    spread = positions * torch.tensor([21, 1, 1])
    assert relative_difference(model(video, patch_positions=spread).last_hidden_state, plain) > 1e-2


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours_or_on_what_padding_holds(model, video):
    patches, _ = cut_patches(video, model.config.patch_size)
    positions = grid_positions(4, 3, 4).expand(2, -1, -1).clone()
    alone = model(pixel_values_videos=patches[:1, :17], patch_positions=positions[:1, :17])
    mask = torch.ones(2, 48, dtype=torch.long)
    mask[0, 17:] = 0
    for garbage in (0.0, 1e4, float("nan")):
        padded, padded_positions = patches.clone(), positions.clone()
        padded[0, 17:] = garbage
        padded_positions[0, 17:] = -7
        for kind in (mask, mask.bool()):
            together = model(
                pixel_values_videos=padded, patch_positions=padded_positions, pixel_attention_mask=kind
            )
            assert relative_difference(together.last_hidden_state[:1, :17], alone.last_hidden_state) <= 1e-5
            assert relative_difference(together.pooler_output[:1], alone.pooler_output) <= 1e-5


def test_without_a_head_the_last_layer_is_returned_bare(video):
    model = OneVisionModel(OneVisionConfig.tiny(use_head=False)).eval()
    assert not [name for name, _ in model.named_parameters() if name.startswith(("head", "layernorm_post"))]
    output = model(video, output_hidden_states=True)
    assert output.pooler_output is None
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])


PATCHES = torch.zeros(1, 5, 588)
PLACES = torch.zeros(1, 5, 3, dtype=torch.long)
CLIP = torch.zeros(1, 3, 2, 28, 28)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "neither"),
        ({"pixel_values": CLIP, "pixel_values_videos": PATCHES}, "both"),
        ({"pixel_values": CLIP.to(torch.uint8)}, "floating point.*uint8"),
        ({"pixel_values": torch.zeros(1, 3, 30, 28)}, "height 30 and width 28.*patch_size 14"),
        ({"pixel_values": torch.zeros(1, 2, 3, 28, 28)}, "2 channels.*model has 3"),
        ({"pixel_values": torch.zeros(28, 28)}, r"got shape \(28, 28\)"),
        ({"pixel_values_videos": CLIP, "patch_positions": PLACES}, r"must be \(B, K, C\*p\*p\)"),
        ({"pixel_values_videos": PATCHES}, "patch_positions must say"),
        ({"pixel_values_videos": torch.zeros(1, 5, 768), "patch_positions": PLACES}, "768.*= 588"),
        ({"pixel_values_videos": PATCHES, "patch_positions": PLACES.float()}, "integer.*float32"),
        ({"pixel_values_videos": PATCHES, "patch_positions": PLACES[:, :4]}, r"\(1, 5, 3\).*\(1, 4, 3\)"),
        ({"pixel_values_videos": PATCHES, "patch_positions": PLACES - 1}, "t lies in -1..-1.*0..63"),
        ({"pixel_values_videos": PATCHES, "patch_positions": PLACES + 64}, "t lies in 64..64.*0..63"),
        ({"pixel_values": CLIP, "patch_positions": PLACES}, r"\(1, 8, 3\).*\(1, 5, 3\)"),
        ({"pixel_values": CLIP, "patch_positions": grid_positions(2, 1, 4)[None]}, "w lies in 0..3.*0..1"),
        ({"pixel_values": CLIP, "visible_indices": torch.tensor([[0, 8]])}, "0..8.*0..7"),
        ({"pixel_values": CLIP, "visible_indices": torch.tensor([0, 8])}, r"\(B=1, K\)"),
        ({"pixel_values": CLIP, "visible_indices": torch.tensor([[0.5]])}, "integer.*float32"),
        ({"pixel_values": torch.zeros(1, 3, 65, 14, 14)}, "t lies in 0..64.*0..63"),
        (
            {"pixel_values_videos": PATCHES, "patch_positions": PLACES, "visible_indices": PLACES[..., 0]},
            "visible_indices index a dense video",
        ),
        (
            {"pixel_values": CLIP, "pixel_attention_mask": torch.ones(1, 5).long()},
            r"\(B, K\) = \(1, 8\), got \(1, 5\)",
        ),
        ({"pixel_values": CLIP, "pixel_attention_mask": torch.ones(1, 8)}, "bool or integer.*float32"),
        ({"pixel_values": CLIP, "pixel_attention_mask": torch.zeros(1, 8).long()}, "row 0.*no real patch"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_the_numbers(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_no_bound_on_time_without_a_virtual_grid():
    model = OneVisionModel(OneVisionConfig.tiny(rope_temporal_size=None)).eval()
    assert model(torch.zeros(1, 3, 65, 14, 14)).last_hidden_state.shape == (1, 65, 64)


def test_trusted_values_are_not_read_and_give_what_checked_ones_give(model):
    inputs = {"pixel_values_videos": PATCHES, "patch_positions": grid_positions(1, 1, 5)[None]}
    checked = model(**inputs).pooler_output
    with trusted_values():
        assert torch.equal(model(**inputs).pooler_output, checked)
        model(**{**inputs, "patch_positions": PLACES + 64})
        with pytest.raises(ValueError, match="patch_positions must be"):  # shapes are known without reading
            model(**{**inputs, "patch_positions": PLACES[:, :4]})
    with pytest.raises(ValueError, match="t lies in"):
        model(**{**inputs, "patch_positions": PLACES + 64})
