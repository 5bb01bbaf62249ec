"""What of a clip is looked at is said once: read from a processor's settings, written back, compared.

Run: python -m pytest tests/modeling/test_patchify_config.py
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

import onevision_hf
from onevision_hf import OneVisionConfig, OneVisionVideoProcessor, OneVisionVLVideoProcessor, VideoReader
from onevision_hf.modeling.patchify_config import PatchifyConfig

SMALL = {"size": 56, "num_frames": 8, "keep_ratio": 0.25}
# A worker that only cuts has neither; the top package, which brings both, is replaced by an empty one.
WITHOUT_TORCH = """
import sys, types
sys.modules["torch"] = sys.modules["transformers"] = None
top = types.ModuleType("onevision_hf")
top.__path__ = [sys.argv[1]]
sys.modules["onevision_hf"] = top
import numpy as np
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.modeling.video_reader import VideoReader
with VideoReader(sys.argv[3]) as reader:
    cut = PatchifyConfig.from_pretrained(sys.argv[2]).patchify(reader)
np.savez(sys.argv[4], patches=cut.patches, positions=cut.positions, energy=cut.placement.energy)
ours = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(sorted(name for name in ours if name[0] != "_"))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_scene(30, 96, 128), gop=9))


def test_a_saved_processor_is_read_without_torch_and_transformers_and_cuts_the_same_bits(clip, tmp_path):
    code = [sys.executable, "-c", WITHOUT_TORCH, str(Path(onevision_hf.__file__).parent)]
    given = [str(onevision_hf.tiny()), clip, str(tmp_path / "cut.npz")]
    found = subprocess.run([*code, *given], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert set(eval(found.stdout)) <= {
        "av",
        "cython_runtime",
        "numpy",
        "onevision_hf",
        "torch",
        "transformers",
    }
    cut = np.load(tmp_path / "cut.npz")
    processor = OneVisionVideoProcessor.from_pretrained(onevision_hf.tiny())
    own = processor(clip, return_tensors="np", return_metadata=True)
    assert np.array_equal(cut["patches"], own["pixel_values_videos"][0])
    assert np.array_equal(cut["positions"], own["patch_positions"][0])
    assert np.array_equal(cut["energy"], own["selections"][0].energy)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "num_frames": st.integers(1, 99),
        "keep_ratio": st.floats(0.01, 1),
        "keep_energy": st.floats(0.01, 1),
        "preset": st.sampled_from(["auto", "published", "bits"]),
        "camera": st.sampled_from([None, "none", "median", "affine"]),
        "anchors": st.sampled_from(["first", "keyframes", 3]),
        "time_buckets": st.integers(1, 4),
        "size": st.sampled_from([56, {"shortest_edge": 28}, {"height": 28, "width": 42}]),
        "crop_size": st.sampled_from([None, 28, {"height": 28, "width": 14}]),
        "do_center_crop": st.booleans(),
        "patch_size": st.sampled_from([7, 14, 16]),
        "image_mean": st.sampled_from([[0.5, 0.4, 0.3], 0.5]),
        "rope_temporal_size": st.sampled_from([None, 16, 64]),
        "timestamps": st.sampled_from([None, [0.0, 0.5]]),
        "max_pixels": st.sampled_from([None, 4096]),
    },
)


@given(CHANGES)
def test_settings_go_to_json_and_back_and_are_those_of_the_processor(changes):
    config = PatchifyConfig.from_dict(changes)
    again = PatchifyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.to_dict() == config.to_dict()
    assert not config.differences(again)
    processor = OneVisionVideoProcessor(**changes)
    assert processor.patchify_config() == config
    assert OneVisionVideoProcessor(**config.to_dict()).patchify_config() == config


def test_a_folder_is_read_as_the_processor_reads_it(tmp_path):
    """A processor's file, one of a published image processor, the model's own settings, a multimodal one."""
    OneVisionVideoProcessor(**SMALL, patch_size=16, camera="none").save_pretrained(tmp_path / "own")
    (tmp_path / "published").mkdir()
    published = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 112},
        "crop_size": 112,
    }
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps(published))
    (tmp_path / "model").mkdir()
    for name in ("own", "published", "model"):
        OneVisionConfig(patch_size=14, rope_temporal_size=32, num_frames=12).save_pretrained(tmp_path / name)
        expected = OneVisionVideoProcessor.from_pretrained(tmp_path / name).patchify_config()
        assert PatchifyConfig.from_pretrained(tmp_path / name) == expected
        assert (expected.layout.patch_size, expected.rope_temporal_size) == (14, 32)
        assert expected.sampling.num_frames == (8 if name == "own" else 12)
    OneVisionVLVideoProcessor(merge_size=2, size=112).save_pretrained(tmp_path / "vl")
    assert PatchifyConfig.from_pretrained(tmp_path / "vl").budget.merge_size == 2
    OneVisionVLVideoProcessor(video_mode="frames").save_pretrained(tmp_path / "frames")
    with pytest.raises(ValueError, match="video_mode='frames'"):
        PatchifyConfig.from_pretrained(tmp_path / "frames")
    with pytest.raises(FileNotFoundError, match="of no processor"):
        PatchifyConfig.from_pretrained(tmp_path / "nowhere")


def test_a_budget_replaces_the_one_of_either_kind_and_all_frames_have_no_number():
    config = PatchifyConfig.from_dict(SMALL)
    assert config.replace(num_patches=64).budget == PatchifyConfig.from_dict({"num_patches": 64}).budget
    assert config.replace(num_patches=64).replace(keep_ratio=0.25) == config
    assert config.replace(num_frames=None) == config
    assert config.replace(do_sample_frames=False).sampling.num_frames == 64  # of which nobody makes use
    for wrong, says in (
        ({"num_patches": 64, "keep_ratio": 0.5}, "both given"),
        ({"do_sample_frames": False, "fps": 2}, "fps does not go with it"),
    ):
        with pytest.raises(ValueError, match=says):
            config.replace(**wrong)
    for unknown, says in (({"sise": 56}, "did you mean size"), ({"colour": 1}, "it takes num_frames")):
        with pytest.raises(TypeError, match=says):
            PatchifyConfig.from_dict(unknown)


def test_a_short_clip_gives_all_that_it_has(clip):
    config = PatchifyConfig.from_dict(SMALL).replace(num_patches=1 << 20)
    with VideoReader(clip) as reader:
        assert len(config.within(reader).select(reader)) == 8 * 4 * 5
        assert config.replace(num_patches=60).within(reader) == config.replace(num_patches=60)
