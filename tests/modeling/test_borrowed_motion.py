"""B pictures decoded alone have wrong vectors: their motion is that of a P picture near them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from clips import _texture, write_clip

from onevision_hf import VideoReader, bundled_clip, select_patches
from onevision_hf.modeling.frame_geometry import FrameGeometry
from onevision_hf.modeling.signal_energy import frame_energies, signal_maps
from onevision_hf.modeling.signal_settings import SignalSettings
from onevision_hf.modeling.standalone_signals import vector_sources

SIDE, STEP = 48, 4


def square_at(t: int) -> tuple[int, int]:
    return 40 + t, 8 + STEP * t


@pytest.fixture(scope="module")
def panned(tmp_path_factory):
    """A square that crosses a ground which pans the other way; B pictures with temporal direct prediction."""
    rng = np.random.default_rng(3)
    ground, square = _texture(rng, 160, 320, 40, 170), _texture(rng, SIDE, SIDE, 90, 255)
    frames = np.empty((36, 160, 256, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:] = ground[:, t : t + 256]
        top, left = square_at(t)
        frame[top : top + SIDE, left : left + SIDE] = square
    options = {"preset": "medium", "x264-params": "direct=temporal:b-adapt=0:scenecut=0"}
    folder = tmp_path_factory.mktemp("panned")
    return write_clip(folder / "panned.mp4", frames, gop=36, bframes=3, options=options)


def test_what_is_kept_of_b_pictures_is_what_moves(panned):
    selection = select_patches(panned, size=160, patch_size=16, keep_ratio=0.12)
    assert selection.signal == "vectors+residual" and "B" in selection.picture_types
    kept = [p for p in selection.positions if selection.picture_types[p[0]] == "B"]
    on_square = 0
    for t, h, w in kept:
        top, left = square_at(int(selection.frame_ids[t]))
        on_square += top - 16 < 16 * h < top + SIDE and left - 16 < 16 * w < left + SIDE
    assert len(kept) > 100 and on_square > 0.85 * len(kept)


def test_the_lender_is_the_reference_after_and_before_a_keyframe_the_one_before(panned):
    with VideoReader(panned) as reader:
        types = [frame.picture_type for frame in reader.frames(range(len(reader)))]
        lenders = vector_sources(reader.index)
    references = [t for t, kind in enumerate(types) if kind != "B"]
    assert lenders.tolist() == [min(r for r in references if r >= t) for t in range(len(types))]
    # The pictures I0 P4 I8 in display order, with B pictures between, decoded as 0 4 1 2 3 8 5 6 7.
    index = type("Index", (), {})()
    index.rank = np.argsort([0, 4, 1, 2, 3, 8, 5, 6, 7])
    index.keyframe = np.isin(np.arange(9), [0, 8])
    assert vector_sources(index).tolist() == [0, 4, 4, 4, 4, 4, 4, 4, 4]


def test_the_energy_is_its_maps_weighed_and_added_up(panned):
    with VideoReader(panned) as reader:
        geometry = FrameGeometry.fit(reader.height, reader.width, 160, 16)
        ids = np.arange(0, 36, 5)
        energy, types, signal, _ = frame_energies(reader, ids, geometry, SignalSettings())
        maps, weights, again, named = signal_maps(reader, ids, geometry, SignalSettings())
    assert list(maps) == ["vectors", "residual", "intra_fallback"] and (types, signal) == (again, named)
    assert np.allclose(energy, sum(weights[name] * maps[name] for name in maps), atol=1e-6)
    assert not maps["vectors"][types.index("I")].any() and maps["vectors"][types.index("B")].any()


@pytest.mark.slow
def test_what_is_kept_of_the_bundled_clips_b_pictures_are_its_sprites(monkeypatch):
    """Drawn with and without them, the clip tells where they are."""
    path = Path(__file__).parents[2] / "scripts" / "draw_bundled_clip.py"
    spec = importlib.util.spec_from_file_location("draw_bundled_clip", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with_sprites = [picture.astype(int) for picture in script.draw_frames()]
    monkeypatch.setattr(script, "place", lambda *args: None)
    sprites = [
        (np.abs(picture - bare).max(-1) > 12).astype(np.float32)
        for picture, bare in zip(with_sprites, script.draw_frames(), strict=True)
    ]
    selection = select_patches(str(bundled_clip()))
    on_sprite = [
        selection.geometry.pool(sprites[selection.frame_ids[t]], 1, 1)[h, w] > 0.05
        for t, h, w in selection.positions
        if selection.picture_types[t] == "B"
    ]
    assert np.mean(on_sprite) > 0.85
