"""What `eval knn` and `eval probe` show an encoder is what its own processor selects, to the bit.

Run: python -m pytest tests/eval/test_own_processor.py
"""

import json

import numpy as np
import pytest
from clips import moving_scene, write_clip
from probe_clips import CLASSES, save_encoder, write_list
from transformers import AutoVideoProcessor

import onevision_hf
from onevision_hf import OneVisionModel, OneVisionVideoProcessor
from onevision_hf.eval.probes.clip_transform import shown_size
from onevision_hf.eval.probes.config import InputConfig, ProbeConfig
from onevision_hf.eval.probes.encoders import load_frozen
from onevision_hf.eval.probes.knn import evaluate_knn
from onevision_hf.eval.probes.run import clip_settings, run_probe
from onevision_hf.training.schema import ConfigError, build

# A published folder has an image processor's file only.
PUBLISHED = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 112}, "do_center_crop": True,
    "crop_size": {"height": 112, "width": 112}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.4],
}  # fmt: skip
# name -> what is changed of the processor that its folder says
CASES = {"tiny": {}, "published": {"preset": "published"}, "keyframes": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """clips/, and a folder of each encoder but tiny."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(4):
        name = folder / "clips" / CLASSES[number % 2] / f"{number}.mp4"
        name.parent.mkdir(parents=True, exist_ok=True)
        write_clip(name, moving_scene(30, 96, 128, seed=number), gop=9)
    save_encoder(folder / "published")
    (folder / "published" / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    save_encoder(folder / "keyframes")
    OneVisionVideoProcessor(
        size=56, patch_size=14, num_frames=12, keep_ratio=0.5, anchors="keyframes", camera="none"
    ).save_pretrained(folder / "keyframes")
    return folder


def encoder_of(made, name):
    return str(onevision_hf.tiny() if name == "tiny" else made / name)


@pytest.fixture
def seen(monkeypatch):
    """Patches and positions of every clip that an encoder is shown, without padding."""
    samples = []
    forward = OneVisionModel.forward

    def watched(self, pixel_values_videos, patch_positions, pixel_attention_mask=None, **more):
        for row, (patches, positions) in enumerate(zip(pixel_values_videos, patch_positions, strict=True)):
            real = slice(None) if pixel_attention_mask is None else pixel_attention_mask[row].bool()
            samples.append((patches[real].numpy(), positions[real].numpy()))
        return forward(
            self,
            pixel_values_videos=pixel_values_videos,
            patch_positions=patch_positions,
            pixel_attention_mask=pixel_attention_mask,
            **more,
        )

    monkeypatch.setattr(OneVisionModel, "forward", watched)
    return samples


def same_clips(made, seen, processor):
    """How many of the clips were shown, each as the processor gives it to the bit."""
    found = 0
    for path in (made / "clips").rglob("*.mp4"):
        own = processor(path, return_tensors="np")
        found += any(
            np.array_equal(patches, own["pixel_values_videos"][0])
            and np.array_equal(positions, own["patch_positions"][0])
            for patches, positions in seen
        )
    return found


@pytest.mark.parametrize("name", CASES)
def test_neighbours_see_what_the_encoders_processor_selects(made, seen, tmp_path, name):
    folder, changes = encoder_of(made, name), CASES[name]
    evaluate_knn(str(made / "clips"), folder, cache=tmp_path, processor=changes)
    processor = OneVisionVideoProcessor.from_pretrained(folder, **changes)
    assert len(seen) == 4 and same_clips(made, seen, processor) == 4


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_probe_sees_and_saves_what_the_encoders_processor_selects(made, seen, tmp_path, name, cached):
    folder, changes = encoder_of(made, name), CASES[name]
    lists = [
        str(write_list(tmp_path / f"{part}.csv", [(f"left/{a}.mp4", "left"), (f"right/{b}.mp4", "right")]))
        for part, a, b in (("train", 0, 1), ("test", 2, 3))
    ]
    config = build(ProbeConfig, {
        "model": folder, "out": str(tmp_path / "run"),
        "data": {"train": lists[0], "test": lists[1], "root": str(made / "clips")},
        "cache": str(tmp_path / "cache") if cached else "", "epochs": 1, "batch_size": 2,
        "dataloader_num_workers": 0, "device": "cpu", "input": {"processor": changes, "augment": False},
    })  # fmt: skip
    assert run_probe(config)[0] == 0
    processor = OneVisionVideoProcessor.from_pretrained(folder, **changes)
    assert same_clips(made, seen, processor) == 4
    saved = AutoVideoProcessor.from_pretrained(tmp_path / "run" / "seed-1" / "model")
    assert same_clips(made, seen, saved) == 4


def settings_of(encoder, **changes):
    return clip_settings(ProbeConfig(model="m", input=InputConfig(**changes)), encoder)


def test_what_is_asked_for_changes_that_and_nothing_else():
    encoder = load_frozen("tiny")
    own, other = settings_of(encoder).identity(), settings_of(encoder, num_patches=512).identity()
    assert own["camera"] == "median" and own["keep_ratio"] == 0.0625
    assert {name for name in own if own[name] != other[name]} == {"num_patches", "keep_ratio"}
    assert (other["num_patches"], other["keep_ratio"]) == (512, None)
    assert settings_of(encoder).budget() == "256 patches"
    with pytest.raises(ConfigError, match=r"input.num_patches and input.processor.num_patches are both"):
        settings_of(encoder, num_patches=512, processor={"num_patches": 256})


def test_a_published_size_is_the_most_that_an_encoder_of_any_size_is_shown(made):
    """224 of a larger encoder; a smaller one keeps its own."""
    published, tiny = load_frozen(str(made / "published")), load_frozen("tiny")
    assert shown_size(settings_of(published, max_size=56).config) == 56
    assert settings_of(published, max_size=56).num_patches == 64 * 4 * 4 // 8
    assert settings_of(published, max_size=224).identity() == settings_of(published).identity()
    assert settings_of(tiny, max_size=224).identity() == settings_of(tiny).identity()
    larger = settings_of(published, max_size=56, processor={"size": 112})
    assert larger.identity() == settings_of(published).identity()
    with pytest.raises(ConfigError, match=r"input.size and input.processor.size are both given"):
        settings_of(published, size=56, processor={"size": 112})
    with pytest.raises(ConfigError, match=r"input.size=56 and input.max_size=224: give one of them"):
        settings_of(tiny, size=56, max_size=224)


def test_a_budget_that_depends_on_the_clips_shape_is_told_as_a_share(made):
    assert settings_of(load_frozen(str(made / "keyframes"))).budget() == "50 % of the patches"
