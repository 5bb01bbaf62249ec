"""Whoever shows a clip to an encoder cuts what the encoder's own processor cuts, to the bit.

`eval knn` and `eval probe` are in test_own_processor.py.

Run: python -m pytest tests/eval/test_one_description.py
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from clips import moving_scene, write_clip
from motion_worlds import ONE_TRIAL
from probe_clips import CLASSES, save_encoder
from vl_tiny import tiny_config, tiny_processor, user

import onevision_hf
from onevision_hf import OneVisionVideoProcessor, OneVisionVLVideoProcessor, VideoReader
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.data.patch_extraction import extract_patches
from onevision_hf.eval.lmms.prompts import PromptLoader
from onevision_hf.eval.lmms.questions import Question
from onevision_hf.eval.lmms.settings import Settings
from onevision_hf.eval.motion import Trial
from onevision_hf.eval.motion.clips import LabelledClip
from onevision_hf.eval.motion.frozen import Encoder
from onevision_hf.eval.motion.inputs import build, codec_config
from onevision_hf.eval.motion.pool import Pool
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.training.config import from_dict
from onevision_hf.training.tasks.cluster import ClusterTask

# A published folder has an image processor's file only; with the preset it is saved as one of videos.
PUBLISHED = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 112}, "do_center_crop": True,
    "crop_size": {"height": 112, "width": 112}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.4],
}  # fmt: skip
NAMES = ("tiny", "published", "keyframes", "energy")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """clips/, and a folder of each encoder but tiny."""
    folder = tmp_path_factory.mktemp("one")
    for number in range(2):
        name = folder / "clips" / CLASSES[number] / f"{number}.mp4"
        name.parent.mkdir(parents=True, exist_ok=True)
        write_clip(name, moving_scene(30, 96, 128, seed=number), gop=9)
    save_encoder(folder / "published")
    (folder / "published" / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    processor = OneVisionVideoProcessor.from_pretrained(folder / "published", preset="published")
    processor.save_pretrained(folder / "published")
    save_encoder(folder / "keyframes")
    OneVisionVideoProcessor(
        size=56, patch_size=14, num_frames=12, keep_ratio=0.5, anchors="keyframes", camera="none"
    ).save_pretrained(folder / "keyframes")
    save_encoder(folder / "energy")
    OneVisionVideoProcessor(size=56, patch_size=14, num_frames=12, keep_energy=0.5).save_pretrained(
        folder / "energy"
    )
    return folder


def encoder_of(made, name):
    return str(onevision_hf.tiny() if name == "tiny" else made / name)


def head_on(encoder, source):
    """The component of a training head that says nothing of what it shows."""
    head = {"kind": "video", "batch_size": 2, "source": source, "codec": 1.0, "uniform": 0.0, "collage": 0.0}
    values = {"max_steps": 1, "model": {"init_from": encoder}, "cluster": {"heads": {"v": head}}}
    return ClusterTask(from_dict(values), {}).mixture[0]


def shown_by(made, tmp_path, encoder):
    """who -> path -> (patches, positions), of all that cut a clip for an encoder."""
    processor = OneVisionVideoProcessor.from_pretrained(encoder)
    config, found = processor.patchify_config(), {}
    extract_patches(str(made / "clips"), tmp_path / "shards", config, workers=0)
    for who, source in (("head", made / "clips"), ("shard", tmp_path / "shards")):
        component = head_on(encoder, str(source))
        for number in range(len(component.dataset)):
            row = component.dataset[number]
            sample = component.transform(row, None, 0)
            cut = sample["pixel_values_videos"], sample["patch_positions"]
            found[who, row.key.rpartition("/")[2]] = cut
    extractor, cache = make_extractor(encoder), PatchCache(tmp_path / "cache", config)
    multimodal = OneVisionVLVideoProcessor(**config.to_dict())
    prompts = tiny_processor(tiny_config())
    prompts.video_processor = multimodal
    loader = PromptLoader(prompts, Settings.parse({"pretrained": encoder}).processor_kwargs(prompts))
    for path in (made / "clips").rglob("*.mp4"):
        found["extractor", path.name] = tuple(t.numpy() for t in extractor.prepare(str(path), "video"))
        found["cache", path.name] = tuple(cache(str(path)).values())
        clip = multimodal.read(str(path))
        found["multimodal", path.name] = clip.patches, clip.positions
        question = Question(lambda path=path: user(("video", str(path)), "What?"), videos=(str(path),))
        (prompt,) = loader.load([question])
        (medium,) = prompt.media
        found["lmms", path.name] = medium.patches.numpy(), medium.positions.numpy()
        with VideoReader(str(path)) as reader:
            found["a saved folder", path.name] = PatchifyConfig.from_pretrained(encoder).patchify(reader)[:2]
    return processor, found


@pytest.mark.parametrize("name", NAMES)
def test_whoever_cuts_a_clip_cuts_what_the_encoders_processor_cuts(made, tmp_path, name):
    processor, found = shown_by(made, tmp_path, encoder_of(made, name))
    assert len(found) == 2 * 7
    for (who, clip), (patches, positions) in found.items():
        (path,) = (made / "clips").rglob(clip)
        own = processor(path, return_tensors="np")
        assert np.array_equal(patches, own["pixel_values_videos"][0]), who
        assert np.array_equal(positions, own["patch_positions"][0]), who


class Files:
    """A source of the motion suite."""

    symmetric = False
    families = {"kind": ("a", "b")}
    identity = {"files": "two"}

    def __init__(self, paths):
        self.paths = paths

    def item(self, split, number):
        return LabelledClip(self.paths[number], [number], np.full((1, 5), np.nan, np.float32), "")


@pytest.mark.parametrize(
    "changes",
    [{}, {"camera": "median"}, {"preset": "bits"}, {"anchors": "keyframes"}, {"sampling": "packet_size"}],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_the_motion_suite_cuts_what_the_processor_cuts(made, tmp_path, changes):
    clips = replace(ONE_TRIAL.clips, num_frames=16, processor=changes)
    settings = replace(ONE_TRIAL, budgets=(1 / 4,), clips=clips)
    source = Files(sorted((made / "clips").rglob("*.mp4")))
    pool = Pool(tmp_path, clips, source, {"train": 0, "test": 2})
    pool.fill([codec_config(settings, "codec")], 1, lambda line: None)
    data = build(pool, settings, Trial("scratch", "codec", 1 / 4, 0), "test")
    processor = OneVisionVideoProcessor(
        size={"height": 64, "width": 64}, patch_size=16, num_frames=16, num_patches=64, do_rescale=False,
        do_normalize=False, rope_temporal_size=None, **changes,
    )  # fmt: skip
    for number in range(2):
        own = processor(source.item("test", number).file, return_tensors="np")
        assert np.array_equal(data.patches[number].numpy(), own["pixel_values_videos"][0])
        assert np.array_equal(data.positions[number].numpy(), own["patch_positions"][0])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny", {"camera": "median"}),
        ("published", {"preset": "published"}),
        ("keyframes", {"anchors": "keyframes", "camera": "none"}),
    ],
)
def test_a_frozen_encoder_is_shown_by_the_motion_suite_what_its_own_processor_keeps(made, name, changes):
    encoder = Encoder.open(encoder_of(made, name))
    assert encoder.fit(ONE_TRIAL).clips.processor == changes
    other = replace(ONE_TRIAL, clips=replace(ONE_TRIAL.clips, processor={"camera": "similarity"}))
    assert encoder.fit(other).clips.processor == changes | {"camera": "similarity"}
