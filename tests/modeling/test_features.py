"""Pooled, per-frame and dense features by one call: the same numbers as the model's own output."""

import pytest
import torch

from onevision_hf import OneVisionConfig, OneVisionModel, OneVisionVideoProcessor, bundled_clip


@pytest.fixture(scope="module")
def model() -> OneVisionModel:
    torch.manual_seed(0)
    return OneVisionModel(OneVisionConfig.tiny()).eval()


@torch.no_grad()
def test_dense_video_is_its_frames_and_patches(model):
    video = torch.randn(2, 3, 4, 56, 28)
    states = model(video)
    assert torch.equal(model.features("pooled", pixel_values=video), states.pooler_output)
    grid = states.last_hidden_state.view(2, 4, 4, 2, -1)
    torch.testing.assert_close(model.features("dense", pixel_values=video), grid)
    torch.testing.assert_close(model.features("frames", pixel_values=video), grid.mean((2, 3)))
    image = model.features("dense", pixel_values=video[:, :, 0])
    assert image.shape == (2, 1, 4, 2, grid.shape[-1])


@torch.no_grad()
def test_kept_patches_are_in_their_places_and_the_rest_is_nan(model):
    processor = OneVisionVideoProcessor(size=56, num_frames=4, keep_ratio=0.5)
    inputs = processor([str(bundled_clip())] * 2, return_tensors="pt", keep_ratio=0.5)
    inputs["pixel_attention_mask"][1, -30:] = False  # a shorter item
    states = model(**inputs).last_hidden_state
    dense = model.features("dense", **inputs)
    frames = model.features("frames", **inputs)
    for row in range(2):
        real = inputs["pixel_attention_mask"][row]
        places, own = inputs["patch_positions"][row][real], states[row][real]
        times = places[:, 0].unique()
        t = torch.searchsorted(times, places[:, 0].contiguous())
        torch.testing.assert_close(dense[row, t, places[:, 1], places[:, 2]], own)
        assert int((~dense[row].isnan().any(-1)).sum()) == int(real.sum())
        for n, time in enumerate(times):
            torch.testing.assert_close(frames[row, n], own[places[:, 0] == time].mean(0))
        assert frames[row, len(times) :].isnan().all()
    packed = {
        "pixel_values_videos": inputs["pixel_values_videos"][inputs["pixel_attention_mask"]],
        "patch_positions": inputs["patch_positions"][inputs["pixel_attention_mask"]],
        "cu_seqlens": torch.tensor([0, *inputs["pixel_attention_mask"].sum(1).cumsum(0)]).int(),
    }
    torch.testing.assert_close(
        model.features("frames", **packed), frames, equal_nan=True, rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_had_is_an_error(model):
    image = torch.randn(1, 3, 56, 56)
    with pytest.raises(ValueError, match="kind must be one of pooled, frames, dense, not 'patches'"):
        model.features("patches", pixel_values=image)
    headless = OneVisionModel(OneVisionConfig.tiny(), add_pooling_layer=False)
    with pytest.raises(ValueError, match='no pooling head: its features are kind="frames"'):
        headless.features(pixel_values=image)
