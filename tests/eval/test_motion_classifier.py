"""The classifier, its training and its symmetries."""

import numpy as np
import pytest
import torch

from onevision_hf.eval.motion import ClassifierSettings, TrainSettings, symmetry
from onevision_hf.eval.motion.classifier import PatchClassifier, rotary_table, rotate
from onevision_hf.eval.motion.training import InputData, Step, predict, train
from onevision_hf.synthetic.backgrounds import fine_lines
from onevision_hf.synthetic.families import DIRECTIONS, ORIENTATIONS

WAYS = {"left or right": ("left", "right")}


def shown_steps(count: int, seed: int) -> InputData:
    """Blank patches: a row of three at rest, and one that is seen in three places, from left to right or from
    right to left: only time tells which."""
    chance = np.random.default_rng(seed)
    labels, places = chance.integers(2, size=count), chance.integers(0, 6, size=count)
    start, positions = chance.integers(8, 40, size=count), np.zeros((count, 6, 3), np.int16)
    positions[:, :3, 2] = [0, 2, 4]
    for step in range(3):
        positions[:, 3 + step, 0] = start + 2 * step
        positions[:, 3 + step, 2] = places + np.where(labels == 1, step, 2 - step)
    return InputData(
        None,
        torch.from_numpy(positions),
        torch.from_numpy(labels[:, None].astype(np.int16)),
        8,
        8,
        symmetric=False,
    )


def test_the_classifier_learns_a_direction_from_positions_alone_and_reads_time_backwards_as_the_other_way():
    torch.manual_seed(0)
    classifier = PatchClassifier(ClassifierSettings(patch_size=8, width=32, layers=1, heads=1), 1, 2)
    train(classifier, [shown_steps(400, 0)], WAYS, TrainSettings(steps=250, batch=16), seed=0)
    data = shown_steps(200, 1)
    right = predict(classifier, data)[:, 0].argmax(-1) == data.labels[:, 0]
    assert right.float().mean() > 0.9
    moving = data.positions[..., 0] > 0
    data.positions[..., 0] = torch.where(moving, 64 - data.positions[..., 0], 0)
    right = predict(classifier, data)[:, 0].argmax(-1) == data.labels[:, 0]
    assert right.float().mean() < 0.3


def test_training_is_the_same_for_the_same_seed():
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        classifier = PatchClassifier(ClassifierSettings(patch_size=8, width=32, layers=1, heads=1), 1, 2)
        train(classifier, [shown_steps(40, 0)], WAYS, TrainSettings(steps=4, batch=8), seed)
        found.append(predict(classifier, shown_steps(8, 1)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_classifier_of_tubes_begins_by_reading_the_mean_of_their_frames():
    torch.manual_seed(0)
    settings = ClassifierSettings(patch_size=8, width=32, layers=1, heads=1)
    single = PatchClassifier(settings, 1, 2)
    torch.nn.init.normal_(single.probes.head)
    tubes = PatchClassifier(settings, 1, 2, tube=4).begin_with(single.state_dict(), tube=4)
    frames, positions = torch.randn(2, 5, 3, 4, 8, 8), torch.randint(8, (2, 5, 3))
    expected = single(frames.mean(3).flatten(2), positions)
    assert torch.allclose(tubes(frames.flatten(2), positions), expected, atol=1e-5)
    again = PatchClassifier(settings, 1, 2).begin_with(single.state_dict())
    assert torch.equal(again(frames.mean(3).flatten(2), positions), expected)


def test_inputs_take_turns():
    used = []

    class Watched(InputData):
        def batch(self, rows, turn=0):
            used.append(self)
            return super().batch(rows, turn)

    inputs = []
    for seed in (0, 1):
        data = shown_steps(16, seed)
        inputs.append(Watched(None, data.positions + seed, data.labels, 8, 8, symmetric=False))
    classifier = PatchClassifier(ClassifierSettings(patch_size=8, width=32, layers=1, heads=1), 1, 2)
    before = [parameter.clone() for parameter in classifier.parameters()]
    losses = []
    train(
        classifier, inputs, WAYS, TrainSettings(steps=4, batch=4), 0, lambda step, loss: losses.append(loss)
    )
    assert [data is inputs[0] for data in used] == [True, False, True, False] and len(losses) == 4
    assert any(not torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))


def test_clips_without_a_label_do_not_count():
    torch.manual_seed(0)
    classifier = PatchClassifier(ClassifierSettings(patch_size=8, width=32, layers=1, heads=1), 2, 2)
    data = shown_steps(16, 0)
    data.labels = torch.cat([data.labels, torch.full_like(data.labels, -1)], 1)
    train(classifier, [data], WAYS | {"never labelled": ("a", "b")}, TrainSettings(steps=3, batch=4), 0)
    assert classifier.probes.head[0].abs().sum() > 0 and classifier.probes.head[1].abs().sum() == 0


def test_a_rotation_keeps_lengths_and_turns_back():
    x, table = torch.randn(5, 64), rotary_table(64, 2.0)
    angles = torch.tensor([[3.0, 1, 2]] * 5) @ table
    turned = rotate(x, angles.cos(), angles.sin())
    assert turned.norm(dim=-1) == pytest.approx(x.norm(dim=-1), rel=1e-5)
    assert torch.allclose(rotate(turned, angles.cos(), -angles.sin()), x, atol=1e-5)
    assert (table > 0).sum(1).tolist() == [8, 12, 12]


def as_patches(frames: np.ndarray, p: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, H, W) -> patches (K, 3*p*p) and positions (K, 3)."""
    count, height, width = frames.shape
    grid = torch.from_numpy(frames).reshape(count, height // p, p, width // p, p).permute(0, 1, 3, 2, 4)
    patches = grid[:, :, :, None].expand(-1, -1, -1, 3, -1, -1).reshape(-1, 3 * p * p)
    shape = (count, height // p, width // p)
    return patches, torch.from_numpy(np.stack(np.unravel_index(np.arange(len(patches)), shape), -1))


def as_frames(patches: torch.Tensor, positions: torch.Tensor, side: int, p: int) -> np.ndarray:
    frames = np.zeros((int(positions[:, 0].max()) + 1, side * p, side * p))
    for patch, (t, h, w) in zip(patches, positions.tolist(), strict=True):
        frames[t, h * p : (h + 1) * p, w * p : (w + 1) * p] = patch.reshape(3, p, p)[0]
    return frames


@pytest.mark.parametrize("turn", range(symmetry.COUNT))
def test_a_turned_clip_moves_the_way_that_its_turned_label_says(turn):
    tables = symmetry.label_tables({"way": tuple(DIRECTIONS), "lines": ORIENTATIONS}, 8)
    assert sorted(tables[turn, 0, :8].tolist()) == list(range(8)) and tables[turn, 0, 8] == -1
    ways = list(DIRECTIONS.values())
    for label, (x, y) in enumerate(ways):
        frames = np.zeros((2, 32, 32))
        for t in range(2):
            frames[t, 16 + round(t * 8 * y / 256), 16 + round(t * 8 * x / 256)] = 1
        patches, positions = symmetry.apply(turn, *as_patches(frames, 8), 4, 8)
        before, after = (np.argwhere(f)[0] for f in as_frames(patches, positions, 4, 8))
        moved, expected = (after - before)[::-1], np.array(ways[tables[turn, 0, label]])
        assert moved @ expected / np.linalg.norm(moved) / np.linalg.norm(expected) > 0.99
    for label, name in enumerate(ORIENTATIONS):
        lines = fine_lines(name, 32, 32, 6)[None, ..., 0].astype(float)
        found = as_frames(*symmetry.apply(turn, *as_patches(lines, 8), 4, 8), 4, 8)[0]
        expected = ORIENTATIONS[tables[turn, 1, label]]
        fits = {
            n: max(
                np.abs(np.sum(found * np.roll(fine_lines(n, 32, 32, 6)[..., 0], s, axis)))
                for s in range(4)
                for axis in (0, 1)
            )
            for n in ORIENTATIONS
        }
        assert max(fits, key=lambda n: fits[n]) == expected


@pytest.mark.gpu
def test_updates_that_a_gpu_plays_back_are_those_that_it_would_do(monkeypatch):
    found = []
    for unrecorded in (3, 30):
        monkeypatch.setattr(Step, "UNRECORDED", unrecorded)
        torch.manual_seed(0)
        classifier = PatchClassifier(
            ClassifierSettings(patch_size=8, width=32, layers=1, heads=1), 1, 2
        ).cuda()
        data = shown_steps(200, 0).to(torch.device("cuda"))
        train(classifier, [data], WAYS, TrainSettings(steps=30, batch=16), seed=0)
        found.append(predict(classifier, shown_steps(20, 1).to(torch.device("cuda"))))
    assert found[0].abs().max() > 0.1
    assert torch.allclose(*found, rtol=1e-3, atol=1e-3)
