"""Motion fields by painted references against what was drawn, exported vectors and exact residuals."""

from pathlib import Path

import numpy as np
import pytest
from clips import _texture, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf import VideoReader, read_codec_signals, select_patches
from onevision_hf.modeling import codec_signals as cs
from onevision_hf.modeling.display_order import with_times
from onevision_hf.modeling.motion_field import third_quartile
from onevision_hf.modeling.painted_codecs import PaintingError, reveal
from onevision_hf.modeling.painted_pictures import default_passes, iter_painted_pictures

FRAMES, HEIGHT, WIDTH, SIDE, PAN, STEP = 26, 128, 192, 48, 1, 5
# Encoder, suffix, and what `write_clip` is called with.
STREAMS = {
    "hevc": ("libx265", "mkv", {"bframes": 0}),
    "hevc-b": ("libx265", "mkv", {"bframes": 3}),
    "hevc-10-bit": ("libx265", "mkv", {"bframes": 3, "pix_fmt": "yuv420p10le"}),
    "hevc-422-12-bit": ("libx265", "mkv", {"bframes": 3, "pix_fmt": "yuv422p12le"}),
    "hevc-444-odd": ("libx265", "mkv", {"bframes": 3, "pix_fmt": "yuv444p", "odd": True}),
    "hevc-rgb": ("libx265", "mkv", {"bframes": 3, "pix_fmt": "gbrp"}),
    "hevc-lossless": ("libx265", "mkv", {"bframes": 3, "options": {"x265-params": "lossless=1"}}),
    "vp8": ("libvpx", "webm", {"options": {"deadline": "realtime", "cpu-used": "8", "b": "600k"}}),
    "vp9": ("libvpx-vp9", "webm", {"options": {"deadline": "good", "cpu-used": "4"}}),
    "vp9-440": ("libvpx-vp9", "webm", {"pix_fmt": "yuv440p"}),
    "vp9-444-odd": ("libvpx-vp9", "webm", {"pix_fmt": "yuv444p", "odd": True}),
    "vp9-lossless": ("libvpx-vp9", "webm", {"options": {"lossless": "1", "crf": "0"}}),
    "vp9-alpha": ("libvpx-vp9", "webm", {"pix_fmt": "yuva420p", "options": {"auto-alt-ref": "0"}}),
    "av1": ("libsvtav1", "mkv", {"options": {"preset": "8", "crf": "32"}}),
    "av1-10-bit": (
        "libsvtav1",
        "mkv",
        {"pix_fmt": "yuv420p10le", "options": {"preset": "8", "crf": "32"}},
    ),
    "mpeg4-b": ("mpeg4", "avi", {"bframes": 2, "options": {"q:v": "4"}}),
    "h264-10-bit": ("libx264", "mp4", {"bframes": 0, "pix_fmt": "yuv420p10le"}),
}


def draw() -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W, 3) frames of a square that goes right by 5 pixels a frame over ground that goes left by one,
    and (T, H, W) where the square is."""
    rng = np.random.default_rng(0)
    ground, square = _texture(rng, HEIGHT, WIDTH + FRAMES, 40, 170), _texture(rng, SIDE, SIDE, 90, 255)
    frames, inside = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8), np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    for t in range(FRAMES):
        frames[t] = ground[:, PAN * t : PAN * t + WIDTH]
        here = np.s_[t, 40 : 40 + SIDE, 16 + STEP * t : 16 + STEP * t + SIDE]
        frames[here], inside[here] = square, True
    return frames, inside


def cells_of(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, rows, columns) cells of 8 x 8 that lie on the square, and on the ground, as a whole."""
    rows, columns = (-(-side // 8) for side in inside.shape[1:])
    missing = rows * 8 - inside.shape[1], columns * 8 - inside.shape[2]
    cells = np.pad(inside, ((0, 0), (0, missing[0]), (0, missing[1])), "edge")
    cells = cells.reshape(len(inside), rows, 8, columns, 8)
    return cells.all((2, 4)), ~cells.any((2, 4))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """name -> (path, cells on the square, cells on the ground); each is encoded once."""
    folder, made = tmp_path_factory.mktemp("painted"), {}
    frames, inside = draw()

    def get(name: str) -> tuple[Path, np.ndarray, np.ndarray]:
        if name not in made:
            codec, suffix, settings = STREAMS[name]
            settings = dict(settings)
            here = np.s_[:, :115, :179] if settings.pop("odd", False) else np.s_[:]
            path = write_clip(folder / f"{name}.{suffix}", frames[here], codec=codec, gop=FRAMES, **settings)
            made[name] = path, *cells_of(inside[here])
        return made[name]

    return get


def paint(path: Path, frame_ids=range(FRAMES), **options):
    with VideoReader(path) as reader:
        options = {"passes": default_passes(reader)} | options
        return dict(iter_painted_pictures(reader, frame_ids, **options))


@pytest.mark.parametrize("name", STREAMS)
def test_fields_are_the_motion_that_was_drawn_whichever_reference_was_used(name, stream):
    path, square, ground = stream(name)
    pictures = paint(path)
    assert sorted(pictures) == list(range(FRAMES))
    off, on_square, known = [], [], []
    for t, picture in pictures.items():
        assert picture.size == (115, 179) if "odd" in name else (HEIGHT, WIDTH)
        if picture.field is None:
            assert picture.picture_type == "I" and picture.luma is not None
            continue
        velocity, whole = picture.field.velocity, square[t] | ground[t]
        truth = np.where(square[t], -STEP, PAN)
        is_known = ~np.isnan(velocity.real)
        known.append(is_known[whole].mean())
        error = np.abs(velocity - truth)
        off.append(error[whole & is_known])
        on_square.append(error[square[t] & is_known])
    assert len(off) == FRAMES - 1
    assert np.median(np.concatenate(off)) < 0.3 and np.median(np.concatenate(on_square)) < 0.4
    assert np.mean(known) > 0.6 and np.mean(np.concatenate(off) < 1) > 0.9


@pytest.mark.parametrize("name", ["hevc-b", "vp9", "av1", "mpeg4-b"])
def test_ages_tell_where_in_time_the_reference_is(name, stream):
    path, *_ = stream(name)
    ages = {t: p.field.age for t, p in paint(path).items() if p.field is not None}
    found = np.concatenate([age[~np.isnan(age)] for age in ages.values()])
    assert (found > 0).any() and (name == "vp9" or (found < 0).any())
    for t, age in ages.items():  # never before the first frame, nor after the last
        assert np.nanmax(age) <= t and np.nanmin(age) > t - FRAMES


def test_the_displacement_is_that_of_exported_vectors(tmp_path):
    frames, _ = draw()
    path = write_clip(tmp_path / "clip.mp4", frames, bframes=0, gop=FRAMES)
    pictures, errors = paint(path), []
    with VideoReader(path) as reader:
        exported = {f.frame_id: f.motion_vectors for f in reader.frames(range(FRAMES), motion_vectors=True)}
    for t in range(1, FRAMES):
        field = cs.vectors(exported[t], HEIGHT, WIDTH, block=8)
        ours = pictures[t].field.velocity * pictures[t].field.age
        errors.append(np.abs(ours - (field[..., 0] + 1j * field[..., 1])))
    errors = np.concatenate([e[~np.isnan(e)] for e in errors])
    assert len(errors) > 0.6 * (FRAMES - 1) * HEIGHT * WIDTH / 64 and np.median(errors) < 0.25


@pytest.mark.parametrize("name", ["hevc", "hevc-b"])
def test_the_residual_is_that_of_packets_decoded_alone(name, stream):
    path, *_ = stream(name)
    pictures = paint(path)
    with VideoReader(path) as reader:
        alone = cs.read_standalone_pictures(reader, range(FRAMES))
    ours, exact = [], []
    for t in range(1, FRAMES):
        known = ~np.isnan(pictures[t].field.velocity.real)
        ours.append(pictures[t].field.residual[known])
        exact.append(cs.block_mean(np.abs(cs.residual(alone[t])).astype(np.uint8), 8)[known])
    ours, exact = np.concatenate(ours), np.concatenate(exact)
    assert np.median(np.abs(ours - exact)) < 0.5 and np.corrcoef(ours, exact)[0, 1] > 0.9


@pytest.mark.parametrize("name", ["hevc-b", "vp9", "av1"])
def test_threads_and_runs_change_nothing(name, stream):
    path, *_ = stream(name)

    def read(threads):
        fields = [p.field for _, p in sorted(paint(path, threads=threads).items()) if p.field is not None]
        return [part.tobytes() for f in fields for part in (f.velocity, f.residual, f.age)]

    assert read(1) == read(1) == read(2)


@pytest.mark.parametrize("name", ["hevc-b", "vp9", "av1"])
def test_some_frames_give_what_all_of_them_give(name, stream):
    path, *_ = stream(name)
    every, some = paint(path), paint(path, (3, 8, 21))
    assert sorted(some) == [3, 8, 21]
    for t, picture in some.items():
        field, whole = picture.field, every[t].field
        assert np.array_equal(field.residual, whole.residual)
        assert np.array_equal(field.age, whole.age, equal_nan=True)
        same = (field.velocity == whole.velocity) | np.isnan(whole.velocity.real)
        assert same.mean() > 0.95  # what wraps is taken for the nearest to what most of the picture does


def test_a_frame_that_shows_a_hidden_picture_has_that_ones_field(stream):
    path, square, ground = stream("av1")
    hidden = set()
    with VideoReader(path) as reader:
        revealed = reveal(reader.codec, reader.extradata)
        for packets in reader.packet_runs(range(FRAMES)):
            steps = ((number, picture) for number, data in packets for picture in revealed.split(data))
            hidden |= {round(step.time) for step in with_times(steps) if not step.picture.is_shown}
    pictures = paint(path)
    assert hidden
    for cells, truth in ((ground, PAN), (square, -STEP)):
        found = np.concatenate([pictures[t].field.velocity[cells[t]] for t in hidden])
        assert np.nanmedian(np.abs(found - truth)) < 0.3
        assert np.mean(~np.isnan(found.real)) > 0.4


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("bframes", [0, 3])
def test_weights_of_a_fade_are_taken_into_account(bframes, passes, tmp_path):
    frames, inside = draw()
    fading = (frames * np.linspace(1, 0.3, FRAMES)[:, None, None, None]).astype(np.uint8)
    weights = {"x265-params": "weightp=1:weightb=1"}
    path = write_clip(
        tmp_path / "fade.mkv", fading, codec="libx265", bframes=bframes, gop=FRAMES, options=weights
    )
    square, ground = cells_of(inside)
    off = []
    for t, picture in paint(path, passes=passes).items():
        if picture.field is not None:
            error = np.abs(picture.field.velocity - np.where(square[t], -STEP, PAN))[square[t] | ground[t]]
            off.append(error[~np.isnan(error)])
    off = np.concatenate(off)
    assert np.median(off) < 0.3 and np.mean(off < 1) > 0.85
    assert len(off) > 0.6 * (square | ground)[1:].sum()


def test_grey_streams_say_why_and_have_what_there_is(tmp_path):
    path = write_clip(tmp_path / "grey.mkv", draw()[0], codec="libx265", pix_fmt="gray", gop=FRAMES)
    with pytest.raises(PaintingError, match="format gray have no chroma"):
        paint(path)
    signals = read_codec_signals(path)
    assert signals.vectors is None and "no chroma" in signals.signal["vectors"]
    found = select_patches(path, num_frames=8, size=56)
    assert found.signal.startswith(("residual", "difference")) and "no chroma" in found.signal


@pytest.mark.parametrize("name", ["hevc-b", "vp8", "vp9", "av1"])
def test_damaged_packets_are_counted_and_leave_no_motion_where_nothing_is_known(name, stream):
    path, *_ = stream(name)
    data = bytearray(path.read_bytes())
    with VideoReader(path) as reader:
        start, size = int(reader.index.start[6]), int(reader.index.size[6])
    for place in range(start + size // 3, start + size):
        data[place] ^= 0x5A
    found = read_codec_signals(bytes(data), frame_ids=range(FRAMES), signals=("vectors", "residual"))
    assert found.vectors.shape[0] == FRAMES and not np.isinf(found.vectors).any()
    damaged = [t for t, kind in enumerate(found.picture_types) if kind == "?"]
    for t in damaged:
        assert np.isnan(found.vectors[t]).all()
    if damaged:
        assert f"{len(damaged)} of {FRAMES} pictures are damaged" in found.signal["vectors"]
    selection = select_patches(bytes(data), num_frames=FRAMES, size=56)
    assert np.isfinite(selection.energy).all()


@given(values=st.lists(st.integers(0, 400), max_size=40))
def test_the_noise_of_a_picture_is_the_third_quartile(values):
    spread = np.array(values, np.float32) / 16
    assert third_quartile(spread) == (np.percentile(spread, 75) if len(spread) else 0)
