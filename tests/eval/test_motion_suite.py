"""The suite end to end on two dozen clips: inputs, trials, resumption, interventions, bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_worlds import ONE_TRIAL, TINY

from onevision_hf import OneVisionConfig, OneVisionModel, select_patches
from onevision_hf.assets import model_folder
from onevision_hf.eval.motion import PROFILES, SuiteSettings, TrainSettings, Trial, run_suite, trials
from onevision_hf.eval.motion.classifier import PatchClassifier
from onevision_hf.eval.motion.clips import Drawn, LabelledClip
from onevision_hf.eval.motion.folder import Labelled
from onevision_hf.eval.motion.frozen import Encoder, encode_input
from onevision_hf.eval.motion.inputs import build, by_energy, codec_config, selected
from onevision_hf.eval.motion.interventions import INTERVENTIONS
from onevision_hf.eval.motion.pool import Pool, energy_name
from onevision_hf.eval.motion.settings import ClassifierSettings
from onevision_hf.eval.motion.shots import Joined
from onevision_hf.jobs.run_folder import digest_of
from onevision_hf.synthetic import ClipSettings, draw_clip, encode
from onevision_hf.synthetic.families import COLOURS, SHAPES


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("motion")


@pytest.fixture(scope="module")
def document(work: Path) -> dict:
    return run_suite(TINY, work, workers=1)


@pytest.fixture(scope="module")
def pool(work: Path, document: dict) -> Pool:
    return Pool(work / "clips", TINY.clips, Drawn(TINY.clips), {"train": TINY.train, "test": TINY.test})


def test_every_cell_has_a_result_for_every_family(document):
    assert len(document["trials"]) == 7 * 2 + 1
    for trial in document["trials"]:
        assert set(trial["accuracy"]) == set(document["families"])
        who = trial["accuracy"]["nudge_who"]
        assert 0 <= who["all"] <= 1 and who["clips"] == TINY.test
    assert document["clips"] == {"train": 24, "test": 24, "rejected": []}
    ceiling = document["ceilings"]["0.0625"]["nudge_who"]
    assert 0.25 <= ceiling["all"] <= 1 and ceiling["moving"] is not None
    assert document["chance"]["nudge_direction"] == 1 / 8


@pytest.mark.parametrize("name", [n for n in TINY.inputs if n not in ("dense", "positions", "codec_energy")])
def test_an_input_keeps_as_many_patches_as_its_budget(pool, name):
    for budget in TINY.budgets:
        kept = selected(pool, TINY, Trial("scratch", name, budget, 0), "test")
        assert kept.shape == (TINY.test, TINY.patches(budget))
        assert all(len(set(row)) == len(row) for row in kept.tolist())
        if name != "uniform":
            assert (kept[:, :16] == np.arange(16)).all(), "the first frame is whole"


def test_by_energy_clips_have_as_many_patches_as_the_budget_on_average_and_each_its_own_number(pool):
    for budget in TINY.budgets:
        trial, wanted = Trial("scratch", "codec_energy", budget, 0), TINY.patches(budget)
        means = []
        for split in ("train", "test"):
            kept = selected(pool, TINY, trial, split)
            counts = (kept >= 0).sum(1)
            means.append(counts.mean())
            assert counts.min() < wanted < counts.max() == kept.shape[1] <= 4 * wanted
            assert all((row[:n] >= 0).all() for row, n in zip(kept, counts, strict=True)), "filled at the end"
        assert means[0] == pytest.approx(wanted, rel=0.1)
        share = by_energy(pool, TINY, budget).budget.keep_energy
        file = Drawn(TINY.clips).item("test", 0).file
        chosen = select_patches(
            file, num_frames=32, size=64, patch_size=16, keep_energy=share, num_patches=4 * wanted
        )
        own = np.ravel_multi_index(tuple(chosen.positions.T), (32, 4, 4))
        assert np.array_equal(kept[0][kept[0] >= 0], own)


def test_clips_of_several_scenes_are_asked_what_was_in_each_and_what_moved_in_it(tmp_path):
    inputs = ("codec", "codec_shots", "uniform")
    settings = replace(ONE_TRIAL, inputs=inputs, clips=replace(TINY.clips, num_frames=64))
    document = run_suite(settings, tmp_path, shots=True, workers=1)
    assert list(document["families"].items())[3:5] == [
        ("scene 4: what was in it", list(SHAPES)),
        ("scene 1: what moved in it", list(COLOURS)),
    ]
    # Four whole frames show every scene, and few of the events, which last 3 to 9 of 16 frames.
    known = document["ceilings"]["0.0625"]
    assert all(known[f"scene {k}: what was in it"]["all"] == 1 for k in (1, 2, 3, 4))
    assert 0.3 < np.mean([known[f"scene {k}: what moved in it"]["all"] for k in (1, 2, 3, 4)]) < 0.8
    pool = Pool(tmp_path / "clips", settings.clips, Joined(settings.clips), {"train": 24, "test": 24})
    budget = 1 / 8
    first, by_shots = (
        selected(pool, settings, Trial("scratch", name, budget, 0), "test")
        for name in ("codec", "codec_shots")
    )
    assert first.shape == by_shots.shape == (24, settings.patches(budget))
    for kept in zip(first, by_shots, strict=True):
        one, shots = (np.bincount(own // 16, minlength=64) for own in kept)
        assert one[0] == 16
        assert (shots[::16] == 16).all(), "the first frame of each scene is whole"
    item = pool.source.item("test", 0)
    chosen = select_patches(item.file, size=64, patch_size=16, num_patches=128)
    assert np.array_equal(by_shots[0], np.ravel_multi_index(tuple(chosen.positions.T), (64, 4, 4)))
    with pytest.raises(ValueError, match="--shots draws its own clips"):
        run_suite(settings, tmp_path, shots=True, grounds=tmp_path)


def test_what_was_stored_before_there_were_shots_is_still_what_is_asked_for():
    assert "codec_shots" not in SuiteSettings().inputs and "codec_shots" not in PROFILES["full"].inputs
    settings = Encoder.open(str(model_folder("tiny"))).fit(SuiteSettings())
    assert settings.clips.processor == {"camera": "median"}
    keys = [
        SuiteSettings().key(Trial(*trial, 1 / 16, 0))
        for trial in (("scratch", "codec"), ("frozen", "uniform"))
    ]
    assert [digest_of(key)[:12] for key in keys] == ["dcdc16e1ce57", "a1a8f5e3f566"]
    names = [energy_name(codec_config(TINY, name)) for name in ("codec", "codec_energy", "codec_published")]
    assert names == ["648077331a94", "648077331a94", "3aa8b0ffb00c"]


def test_what_fills_up_a_clip_is_not_read(pool):
    data = build(pool, TINY, Trial("scratch", "codec_energy", 1 / 16, 0), "test")
    numbers = torch.arange(4)
    patches, positions = data.batch(numbers)
    torch.manual_seed(0)
    classifier = PatchClassifier(TINY.classifier, 2, 3, is_padded=True).eval()
    torch.nn.init.normal_(classifier.probes.head)
    torch.nn.init.normal_(classifier.layers[0].mlp.fc2.weight)
    filled = positions[..., 0] < 0
    assert filled.any() and not filled.all(1).any()
    expected = classifier(patches, positions)
    patches[filled] = 100.0
    positions[filled] = torch.tensor([-1, 3, 2], dtype=positions.dtype)
    torch.testing.assert_close(classifier(patches, positions), expected)
    alone = ~filled[:1, :]
    own = classifier(patches[:1][alone][None], positions[:1][alone][None])
    torch.testing.assert_close(own, expected[:1], rtol=1e-4, atol=1e-5)


def test_codec_input_is_what_codec_patchification_keeps(pool):
    kept = selected(pool, TINY, Trial("scratch", "codec", 1 / 16, 0), "test")
    for number in range(4):
        file = Drawn(TINY.clips).item("test", number).file
        chosen = select_patches(file, num_frames=32, size=64, patch_size=16, num_patches=TINY.patches(1 / 16))
        assert np.array_equal(kept[number], np.ravel_multi_index(tuple(chosen.positions.T), (32, 4, 4)))


def test_patches_are_cut_where_positions_say(pool):
    data = build(pool, TINY, Trial("scratch", "codec", 1 / 16, 0), "test")
    pixels = pool.pixels("test")[0]
    for place in (0, 20, 31):
        t, h, w = data.positions[3, place].tolist()
        square = pixels[3, t, :, h * 16 : h * 16 + 16, w * 16 : w * 16 + 16]
        assert np.array_equal(data.patches[3, place].numpy(), square.reshape(-1))
    blank = build(pool, TINY, Trial("scratch", "positions", 1 / 16, 0), "test")
    assert torch.equal(blank.positions, data.positions)
    assert (blank.batch(torch.arange(4))[0] == 0).all()
    dense = build(pool, TINY, Trial("scratch", "dense", 1.0, 0), "test")
    tube = dense.raw(torch.tensor([5]))[0, 4 * 16 + 6].reshape(3, 4, 16, 16).numpy()
    assert np.array_equal(tube, pixels[5, 16:20, :, 16:32, 32:48].transpose(1, 0, 2, 3))


def test_the_difference_of_few_frames_is_taken_from_four_times_as_many_as_uniform_decodes(pool):
    few = selected(pool, TINY, Trial("scratch", "difference_few", 1 / 16, 0), "test") // 16
    assert set(few.ravel().tolist()) <= set(range(0, 32, 4))
    every = selected(pool, TINY, Trial("scratch", "difference_all", 1 / 16, 0), "test") // 16
    assert not set(every.ravel().tolist()) <= set(range(0, 32, 4))


def test_interventions_change_what_they_say_and_nothing_else(pool):
    data = build(pool, TINY, Trial("scratch", "codec", 1 / 8, 0), "test")
    first = data.positions[..., 0] == 0
    changed = {
        name: intervene(data, pool, TINY, np.random.default_rng(0))
        for name, intervene in INTERVENTIONS.items()
    }
    for name, place in (("replace_still", first), ("foreign_motion", ~first)):
        differs = (changed[name].patches != data.patches).any(-1)
        assert not differs[~place].any() and 0.3 < differs[place].float().mean() < 0.6, name
        assert torch.equal(changed[name].positions, data.positions)
    shuffled = changed["shuffle_positions"].positions
    assert sorted(shuffled[2].tolist()) == sorted(data.positions[2].tolist())
    assert not torch.equal(shuffled, data.positions)
    mirrored = changed["mirror_time"].positions
    assert torch.equal(mirrored[first], data.positions[first])
    assert (mirrored[..., 0] + data.positions[..., 0])[~first].unique().tolist() == [32]


def test_a_run_that_was_interrupted_does_only_the_missing_cells(work, document, monkeypatch):
    ran: list[Trial] = []
    run_trial = trials.run_trial

    def watched(job, trial):
        ran.append(trial)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run_trial(job, trial)

    monkeypatch.setattr(trials, "run_trial", watched)
    assert run_suite(TINY, work, workers=1)["trials"] == document["trials"] and not ran
    more = replace(TINY, seeds=(0, 1), inputs=("codec", "uniform"), budgets=(1 / 16,))
    with pytest.raises(KeyboardInterrupt):
        run_suite(more, work, workers=1)
    assert [trial.seed for trial in ran] == [1, 1]
    finished = run_suite(more, work, workers=1)
    assert len(ran) == 3 and ran[2] == ran[1]
    assert len(finished["trials"]) == 4


def test_cells_of_a_budget_and_a_seed_begin_with_one_reader_that_is_trained_once(work, document, pool):
    job = trials.Job(work, pool, TINY, None)
    made = [job.mixed_path(budget, 0) for budget in TINY.budgets]
    assert all(path.exists() for path in made) and made[0] != made[1]
    assert job.mixed_path(1.0, 0) == made[0], "dense begins with the smallest"
    assert job.mixed_path(1 / 16, 1) not in made
    times = [path.stat().st_mtime_ns for path in made]
    run_suite(replace(TINY, training=TrainSettings(steps=1, batch=4)), work, workers=1)
    assert [path.stat().st_mtime_ns for path in made] == times


def test_other_training_is_another_result_and_another_size_another_folder(work, document, monkeypatch):
    ran = []
    monkeypatch.setattr(
        trials,
        "run_trial",
        lambda job, trial: ran.append(trial) or {**document["trials"][0], "settings": job.key(trial)},
    )
    run_suite(replace(ONE_TRIAL, training=TrainSettings(steps=3, batch=4)), work, workers=1)
    assert len(ran) == 1
    with pytest.raises(ValueError, match="was made from something else: clips was"):
        run_suite(replace(ONE_TRIAL, clips=replace(TINY.clips, seed=7)), work, workers=1)
    path = next((work / "trials").glob("scratch-codec-0.0625-0-*"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": {}}))
    job = trials.Job(
        work, Pool(work / "clips", TINY.clips, Drawn(TINY.clips), {"train": 24, "test": 24}), TINY, None
    )
    if job.path(Trial("scratch", "codec", 1 / 16, 0)) == path:
        with pytest.raises(ValueError, match="made with other settings: remove it"):
            job.stored(Trial("scratch", "codec", 1 / 16, 0))
    path.unlink()


def test_the_result_of_a_cell_is_the_same_when_it_runs_again(work, document, pool):
    job = trials.Job(work, pool, TINY, None)
    again = trials.run_trial(job, Trial("scratch", "uniform", 1 / 16, 0))
    first = next(c for c in document["trials"] if c["settings"]["trial"]["input"] == "uniform")
    assert again["accuracy"] == first["accuracy"]


def test_a_frozen_encoder_is_read_through_its_tokens(tmp_path, pool):
    torch.manual_seed(0)
    config = OneVisionConfig.tiny(patch_size=14, rope_temporal_size=16)
    OneVisionModel(config).eval().save_pretrained(tmp_path / "model")
    encoder = Encoder.open(str(tmp_path / "model"))
    settings = replace(ONE_TRIAL, inputs=(), frozen_inputs=("codec",))
    data = build(pool, settings, Trial("frozen", "codec", 1 / 16, 0), "test")
    tokens = encode_input(encoder, settings, data)
    assert tokens.patches.shape == (24, 32, config.hidden_size) and tokens.is_tokens
    assert torch.equal(tokens.positions, data.positions), "the probe reads where patches are in the clip"
    assert encoder.fit(settings) == settings, "patches of 14 do not fill 64 pixels"
    OneVisionModel(OneVisionConfig.tiny(patch_size=8, image_size=64)).save_pretrained(tmp_path / "fitting")
    fitted = Encoder.open(str(tmp_path / "fitting")).fit(settings)
    assert fitted.classifier.patch_size == 8 and fitted.patches(1 / 16) == 128
    document = run_suite(settings, pool.folder.parent, model=str(tmp_path / "model"), workers=1)
    assert [trial["settings"]["model"] for trial in document["trials"]] == [encoder.digest]
    assert document["model"] == "model", "no path of this machine"
    with pytest.raises((OSError, ValueError)):
        Encoder.open(str(tmp_path / "nothing"))


def test_budgets_and_inputs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="would be 2048 patches, and a clip of 64 frames of 16 has 1024"):
        SuiteSettings(budgets=(2.0,))
    with pytest.raises(ValueError, match=r"pays for 6\.4 of 64 frames"):
        SuiteSettings(budgets=(0.1,))
    with pytest.raises(ValueError, match="no input is called 'codecs'; choose one of codec,"):
        SuiteSettings(inputs=("codecs",)).trials(False)
    with pytest.raises(ValueError, match="codec_energy is no input of frozen encoders"):
        SuiteSettings(frozen_inputs=("codec_energy",))
    with pytest.raises(ValueError, match="patches of 12 pixels must fill frames of 64"):
        SuiteSettings(classifier=ClassifierSettings(patch_size=12))
    with pytest.raises(ValueError, match="ceilings are known for"):
        run_suite(replace(ONE_TRIAL, budgets=(3 / 32,)), "never made", workers=1)


def test_a_gpu_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no device 'cuda' here: leave it out"):
        run_suite(ONE_TRIAL, tmp_path, device="cuda")
    assert not any(tmp_path.iterdir())


def test_the_cells_of_the_goals_come_first():
    order = replace(TINY, budgets=(1 / 32, 1 / 16, 1 / 8), seeds=(0, 1)).trials(False)
    assert [c.budget for c in order[:14]] == [1 / 16] * 14
    assert [c.seed for c in order[:14]] == [0] * 7 + [1] * 7
    assert [c.input for c in order[14:16]] == ["dense", "dense"], "the longest"
    assert not any(c.input == "dense" for c in order[16:])


class Stub:
    """A source of clips with given labels."""

    symmetric = False

    def __init__(self, labels, files=None):
        self.labels, self.files = labels, files
        self.families = {"kind": ("a", "b")}
        self.identity = {"stub": 1}

    def item(self, split, number):
        file = (
            self.files[number]
            if self.files
            else encode(draw_clip(0, number, "first", ClipSettings(32)).frames)
        )
        return LabelledClip(file, [self.labels[number]], np.full((1, 5), np.nan, np.float32), False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "kind: label 2 is out of range, there are 2 labels"),
        ([0, 0, 0], "no train clip has the label 'b'"),
    ],
)
def test_labels_out_of_range_or_without_a_clip_stop_a_run(tmp_path, labels, message):
    pool = Pool(tmp_path, TINY.clips, Stub(labels), {"train": 3, "test": 1})
    pool.fill((), 1, lambda line: None)
    with pytest.raises(ValueError, match=message):
        pool.check_labels()


def test_clips_that_cannot_be_read_are_listed_and_above_a_share_stop_the_run(tmp_path):
    good = encode(draw_clip(0, 0, "first", ClipSettings(32)).frames)
    short, broken, missing = tmp_path / "short.mp4", tmp_path / "broken.mp4", tmp_path / "missing.mp4"
    long = draw_clip(0, 0, "first", ClipSettings(32)).frames
    short.write_bytes(encode(long[:20]))
    broken.write_bytes(good[: len(good) // 3])
    files = [good] * 28 + [short, broken, missing]
    pool = Pool(tmp_path / "a", TINY.clips, Stub([n % 2 for n in range(31)], files), {"train": 31, "test": 2})
    (tmp_path / "a").mkdir()
    pool.fill((), 1, lambda line: None)
    rejected = pool.rejected()
    assert [Path(r["clip"]).name for r in rejected] == ["short.mp4", "broken.mp4", "missing.mp4"]
    assert "has 20 frames, the suite needs 32" in rejected[0]["reason"]
    assert pool.read("train", "labels")[:, 0].tolist() == [n % 2 for n in range(28)], (
        "never another clip's label"
    )
    (tmp_path / "b").mkdir()
    pool = Pool(tmp_path / "b", TINY.clips, Stub([0] * 3, files[28:]), {"train": 3, "test": 1})
    with pytest.raises(ValueError, match=r"4 of 4 clips cannot be read \(at most 10% may be\)"):
        pool.fill((), 1, lambda line: None)


def test_a_folder_of_labelled_clips_is_read_without_ceilings(tmp_path):
    for label in ("left", "right"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number in range(6):
            frames = draw_clip(number, 0, "direction", ClipSettings(32, 48, 64)).frames
            (tmp_path / "clips" / label / f"{number}.mp4").write_bytes(encode(frames))
    document = run_suite(ONE_TRIAL, tmp_path / "work", clips=tmp_path / "clips", workers=1)
    assert document["families"] == {"label": ["left", "right"]} and document["goals"] == []
    assert document["clips"] == {"train": 8, "test": 4, "rejected": []}
    assert document["ceilings"]["0.0625"]["label"]["all"] is None
    with pytest.raises(ValueError, match="was made from something else"):
        run_suite(ONE_TRIAL, tmp_path / "work", workers=1)
    (tmp_path / "clips" / "left" / "0.mp4").unlink()
    again = run_suite(ONE_TRIAL, tmp_path / "work", clips=tmp_path / "clips", workers=1, redo=True)
    assert again["clips"] == {"train": 8, "test": 3, "rejected": []} and again["trials"] != document["trials"]


def test_folders_that_hold_no_labelled_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        Labelled.open(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="has 1 sub-folders"):
        Labelled.open(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="the label 'a' has 0 clips"):
        Labelled.open(tmp_path)
