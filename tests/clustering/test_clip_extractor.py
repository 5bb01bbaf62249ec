"""An encoder of this package as an extractor: it sees a clip as a whole, through its own processor."""

import numpy as np
import pytest
import torch
from drawn import as_bytes, clip, picture
from torch.nn.functional import normalize

from onevision_hf import OneVisionConfig, OneVisionModel, OneVisionVideoProcessor
from onevision_hf.clustering.extractors import ClipExtractor, FrameExtractor, make_extractor
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.modeling.grid_pooling import grid_means

SIZES = {"image_size": 64, "patch_size": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    OneVisionModel(OneVisionConfig.tiny(**SIZES, initializer_range=0.2)).save_pretrained(folder)
    OneVisionVideoProcessor(size=64, patch_size=16, num_frames=8, keep_ratio=0.25).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clips():
    return [clip("red", "right", 0), clip("blue", "down", 1, frames=4), clip("red", "left", 2)]


def outputs(encoder, content):
    inputs = OneVisionVideoProcessor.from_pretrained(encoder)(content, return_tensors="pt")
    with torch.inference_mode():
        return inputs, OneVisionModel.from_pretrained(encoder).eval()(**inputs)


@pytest.mark.parametrize("pool", ["pooler", "tokens", "grid"])
def test_a_feature_is_read_off_what_the_encoder_makes_of_the_whole_clip(encoder, clips, pool):
    extractor = make_extractor(encoder, pool=pool)
    # Clips of unequal lengths in one batch: the padding changes nothing.
    found = extractor.encode([extractor.prepare(content, "video") for content in clips])
    for content, feature in zip(clips, found, strict=True):
        inputs, output = outputs(encoder, content)
        expected = {
            "pooler": output.pooler_output,
            "tokens": output.last_hidden_state.mean(1),
            "grid": grid_means(output.last_hidden_state, inputs["patch_positions"]),
        }[pool]
        torch.testing.assert_close(feature, normalize(expected, dim=1)[0], atol=1e-5, rtol=0)


def test_the_default_is_the_pooled_output_and_a_picture_is_one_frame(encoder):
    extractor = make_extractor(encoder)
    assert isinstance(extractor, ClipExtractor) and extractor.identity["pool"] == "pooler"
    feature = extractor.encode([extractor.prepare(as_bytes(picture("red", "disc", 0)), "image")])
    assert feature.shape == (1, 64)
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(1))


def test_frame_by_frame_still_works_for_an_encoder_of_this_package(tmp_path):
    """Without a video processor it is an image encoder as any other."""
    from onevision_hf import OneVisionImageProcessor

    OneVisionModel(OneVisionConfig.tiny(**SIZES)).save_pretrained(tmp_path)
    OneVisionImageProcessor(size={"height": 64, "width": 64}, patch_size=16).save_pretrained(tmp_path)
    assert isinstance(make_extractor(str(tmp_path)), FrameExtractor)
    with pytest.raises(ValueError, match="--pool grid is for an encoder of this package"):
        make_extractor(str(tmp_path), pool="grid")


def test_arguments_that_do_not_fit_are_named(encoder):
    with pytest.raises(ValueError, match=r"unknown pool 'median'.*grid"):
        make_extractor(encoder, pool="median")
    with pytest.raises(ValueError, match="--keep-dims is for the frames of an image encoder"):
        make_extractor(encoder, keep_dims=8)
    with pytest.raises(ValueError, match="descriptors are whole"):
        make_extractor("descriptors", pool="mean")


def test_a_grid_cell_is_the_mean_of_its_patches_and_padding_is_in_none():
    states = torch.arange(12.0).reshape(1, 6, 2)
    positions = torch.tensor([[[0, 0, 0], [0, 3, 3], [40, 0, 0], [40, 1, 1], [63, 3, 0], [0, 0, 0]]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    cells = grid_means(states, positions, mask, grid=(2, 2, 2)).reshape(8, 2)
    expected = torch.zeros(8, 2)
    expected[0], expected[3] = states[0, 0], states[0, 1]  # early: top left, bottom right
    expected[4], expected[6] = states[0, 2:4].mean(0), states[0, 4]  # late: top left, bottom left
    torch.testing.assert_close(cells, expected)


def test_cached_patches_are_those_of_the_processor_to_the_bit(encoder, clips, tmp_path):
    processor = OneVisionVideoProcessor.from_pretrained(encoder)
    cache = PatchCache(tmp_path / "cache", processor.patchify_config(num_patches=20))
    expected = processor(clips[0], num_patches=20, return_tensors="np")
    for _ in range(2):
        found = cache(clips[0])
        for name, array in found.items():
            assert np.array_equal(array, expected[name][0])
    (file,) = (tmp_path / "cache").iterdir()
    # Other settings and other clips have files of their own; the same clip under a path has the same one.
    path = tmp_path / "clip.mp4"
    path.write_bytes(clips[0])
    cache(str(path))
    assert [*(tmp_path / "cache").iterdir()] == [file]
    PatchCache(tmp_path / "cache", processor.patchify_config(num_patches=24))(clips[0])
    cache(clips[2])
    assert len([*(tmp_path / "cache").iterdir()]) == 3


def test_a_teacher_with_a_cache_gives_the_same_features(encoder, clips, tmp_path):
    plain, cached = make_extractor(encoder), make_extractor(encoder, cache=str(tmp_path / "cache"))
    features = [t.encode([t.prepare(c, "video") for c in clips]) for t in (plain, cached, cached)]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])
