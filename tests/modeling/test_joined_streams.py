"""Joined streams: what is in force at a packet counts, not what the header said at the start.

The truth is the second part read alone, and FFmpeg's plain decode of each part.
"""

import functools
from pathlib import Path

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip
from joined import join, join_headers

from onevision_hf import (
    CodecStream,
    OneVisionVideoProcessor,
    StreamWindow,
    VideoReader,
    read_codec_signals,
    select_patches,
)
from onevision_hf.modeling.signal_energy import signal_maps

HALF = 24
SMALL = moving_scene(HALF, 96, 128, seed=5)
# Quality, coding tools (of which some are in the sequence's set), and both.
ENCODERS = {
    "h264-quality": ("libx264", {"crf": "20"}, {"crf": "30"}),
    "h264-tools": ("libx264", {"profile": "baseline"}, {"profile": "high", "x264-params": "8x8dct=1:ref=3"}),
    "hevc-quality": ("libx265", {"crf": "20"}, {"crf": "30"}),
    "hevc-tools": ("libx265", {}, {"x265-params": "ctu=16:no-sao=1:no-amp=1:no-tmvp=1"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(name of the encoders, how they are joined) -> the joined file, its second part, its plain decode."""
    folder, found = tmp_path_factory.mktemp("joined"), {}

    def make(name: str, how: str) -> tuple[Path, Path, list[np.ndarray]]:
        if (name, how) not in found:
            suffix = ".mp4" if how == "headers" else ".ts"
            parts = [part(folder, name, number, suffix) for number in (0, 1)]
            path = folder / f"{name}-{how}{'.mp4' if how == 'headers' else '.ts' if how == 'cat' else how}"
            if how == "headers":
                join_headers(path, *parts)
            elif how == "cat":
                path.write_bytes(b"".join(one.read_bytes() for one in parts))
            else:
                join(path, parts)
            found[name, how] = path, parts[1], [frame for one in parts for frame in plain(one)]
        return found[name, how]

    return make


@pytest.fixture(scope="module")
def alone():
    """(a part, signals) -> what is read of it by itself, once for all the ways in which it is joined."""
    return functools.cache(lambda path, kinds: read_codec_signals(path, frame_ids=range(HALF), signals=kinds))


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """(codec, suffix) -> the same scene as two clips, the second of twice the height and width."""
    folder = tmp_path_factory.mktemp("sizes")

    @functools.cache
    def make(codec: str, suffix: str) -> list[Path]:
        scenes = [SMALL, SMALL.repeat(2, 1).repeat(2, 2)]
        names = (folder / f"{codec}-{number}{suffix}" for number in (0, 1))
        return [write_clip(*each, codec=codec, bframes=0) for each in zip(names, scenes, strict=True)]

    return make


def part(folder: Path, name: str, number: int, suffix: str) -> Path:
    codec, *options = ENCODERS[name]
    path = folder / f"{name}-{number}{suffix}"
    if not path.exists():
        frames = moving_scene(HALF, 96, 128, seed=number)
        bframes = 0 if "tools" in name else 2
        write_clip(path, frames, codec=codec, gop=8, bframes=bframes, options=options[number])
    return path


def plain(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first, second, equal_nan=True)


def is_like_another(name: str, how: str) -> bool:
    """MOV is written as MP4 is, and whoever follows other coding tools follows another quality."""
    return how == ".mov" or ("quality" in name and how != ".mp4")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=[pytest.mark.slow] if is_like_another(name, how) else [])
        for name in ENCODERS
        for how in (".mp4", ".mov", ".mkv", ".ts", "cat", "headers")
    ],
)
def test_after_the_join_signals_are_those_of_the_second_part_alone(name, how, made, alone):
    path, second, _ = made(name, how)
    kinds = ("residual", "bits") if "hevc" in name else ("vectors", "residual", "bits")
    joined = read_codec_signals(path, frame_ids=range(HALF, 2 * HALF), signals=kinds)
    own = alone(second, kinds)
    assert np.nansum(own.residual) > 10_000
    for kind in kinds:
        if kind != "bits" or same(joined.packet_sizes, own.packet_sizes):  # a container may add sets
            assert same(getattr(joined, kind), getattr(own, kind)), kind
    assert joined.picture_types == own.picture_types
    assert joined.signal["residual"].startswith("exact, packets decoded alone against grey references")
    assert "damaged" not in "".join(joined.signal.values())


@pytest.mark.parametrize("how", [".mp4", ".mkv", ".ts", "cat", "headers"])
@pytest.mark.parametrize("name", ["h264-tools", "hevc-tools"])
def test_frames_on_both_sides_of_the_join_can_be_fetched_in_any_order(name, how, made):
    path, _, frames = made(name, how)
    with VideoReader(path) as reader:
        assert len(reader) == 2 * HALF
        for frame_id in (30, 3, 40, 10, 47, 0, 24, 23):
            (frame,) = reader.frames([frame_id])
            assert np.array_equal(frame.av_frame.to_ndarray(), frames[frame_id]), frame_id
        together = [frame.av_frame.to_ndarray() for frame in reader.frames([2, 20, 30, 47])]
    assert all(np.array_equal(a, frames[i]) for a, i in zip(together, (2, 20, 30, 47), strict=True))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_bit_depth_that_changes_is_named_and_both_halves_still_have_a_signal(codec, tmp_path):
    parts = [
        write_clip(
            tmp_path / f"{depth}.ts",
            moving_scene(HALF, 96, 128, seed=depth),
            codec=codec,
            pix_fmt="yuv420p" if depth == 8 else "yuv420p10le",
            bframes=0,
        )
        for depth in (8, 10)
    ]
    path = join(tmp_path / "joined.mp4", parts)
    selection = select_patches(path, num_patches=2400)
    if codec == "libx264":
        assert "no exact residual" in selection.signal and "10" in selection.signal
    else:  # references of any depth are painted
        assert selection.signal.startswith("vectors+residual (painted references) (2 shots")
    kept = np.bincount(selection.positions[:, 0], minlength=2 * HALF)
    assert min((kept[begin + 1 : begin + HALF] > 0).sum() for begin in (0, HALF)) >= HALF - 2  # but keyframes
    with VideoReader(path) as reader:
        (frame,) = reader.frames([40])
        assert np.array_equal(frame.av_frame.to_ndarray(), plain(parts[1])[40 - HALF])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("first", [0, 1])
def test_signals_follow_the_size_of_each_picture(codec, first, two_sizes, tmp_path):
    """The same scene at two sizes: the larger half gets as many patches, and the same places."""
    order = two_sizes(codec, ".ts")[:: 1 if first == 0 else -1]
    path = join(tmp_path / "joined.ts", order)
    for chosen in (None, ("difference",), ("bits",)):
        selection = select_patches(path, num_patches=2000, size=112, patch_size=14, signals=chosen)
        before, after = (selection.energy[begin + 1 : begin + HALF] for begin in (0, HALF))
        moves = np.abs(np.diff(SMALL.astype(int), axis=0)).max(-1) > 60
        height, width = selection.energy.shape[1:]
        rows, columns = np.arange(96) * height // 96, np.arange(128) * width // 128
        where = np.zeros(before.shape, bool)
        for t, moved in enumerate(moves):
            np.logical_or.at(where[t], (rows[:, None], columns), moved)
        shares = [half[where].sum() / half.sum() for half in (before, after)]
        assert abs(shares[0] - shares[1]) < 0.12 and min(shares) > 1.5 * where.mean(), (chosen, shares)
        kept = np.bincount(selection.positions[:, 0], minlength=2 * HALF)
        assert 0.5 < kept[HALF + 2 :].sum() / kept[2:HALF].sum() < 2, chosen
    sizes = [(96, 128), (192, 256)][:: 1 if first == 0 else -1]
    signals = read_codec_signals(path, frame_ids=range(2 * HALF))
    assert signals.picture_sizes.tolist() == [list(sizes[0])] * HALF + [list(sizes[1])] * HALF
    assert signals.residual.shape == (2 * HALF, 12, 16)
    for begin, one in zip((0, HALF), order, strict=True):
        alone = read_codec_signals(one, frame_ids=range(HALF))
        rows, columns = alone.residual.shape[1:]
        half = signals.residual[begin : begin + HALF]
        assert same(half[:, :rows, :columns], alone.residual)
        assert np.isnan(half[:, rows:]).all() and np.isnan(half[:, :, columns:]).all()


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("codec", "container"), [("libvpx-vp9", "webm"), ("libvpx-vp9", "mp4"), ("libsvtav1", "mkv"),
                             ("libsvtav1", "mp4"), ("libsvtav1", "obu")],
)  # fmt: skip
def test_vp9_and_av1_follow_the_size_of_each_picture(codec, container, first, two_sizes, alone, tmp_path):
    """As adaptive streams: a key picture of another size. Both halves get their patches on what moves."""
    order = two_sizes(codec, ".mkv")[:: 1 if first == 0 else -1]
    path, expected = join(tmp_path / f"joined.{container}", order), [f for one in order for f in plain(one)]
    with VideoReader(path) as reader:
        found = [frame.av_frame.to_ndarray() for frame in reader.frames(range(len(reader)))]
        assert len(found) == 2 * HALF and all(map(np.array_equal, found, expected))
        for frame_id in (30, 3, 47, 24, 23):
            (frame,) = reader.frames([frame_id])
            assert np.array_equal(frame.av_frame.to_ndarray(), expected[frame_id]), frame_id
        one, other = (frame.rgb(96, 96).astype(int) for frame in reader.frames([7, 7 + HALF]))
    assert np.abs(one - other).mean() < 8
    selection = select_patches(path, num_patches=2000, size=112, patch_size=14)
    assert selection.signal.startswith("vectors+residual (painted references")
    kept = np.bincount(selection.positions[:, 0], minlength=2 * HALF)
    assert 0.8 < kept[HALF + 2 :].sum() / kept[2:HALF].sum() < 1.25
    names = ("vectors", "residual", "age")
    after = read_codec_signals(path, signals=names, frame_ids=range(HALF, 2 * HALF))
    own = alone(order[1], names)
    assert after.vectors.shape[1] == expected[-1].shape[0] * 2 // 3 // 4
    assert all(same(getattr(after, name), getattr(own, name)) for name in names)


def test_av1_changes_its_size_between_key_pictures(tmp_path):
    """As encoders do that are short of bits: half the size from picture 5 to 12, of scaled references."""
    options = {
        "svtav1-params": "resize-mode=4:frame-resz-events=5,13:frame-resz-denoms=16,8",
        "preset": "8",
    }
    scene = moving_scene(HALF, 192, 256, seed=5)
    path = write_clip(tmp_path / "clip.mkv", scene, codec="libsvtav1", gop=HALF, options=options)
    expected = plain(path)
    assert [frame.shape[1] for frame in expected] == [256] * 5 + [128] * 8 + [256] * 11
    with VideoReader(path) as reader:
        for frame in reader.frames(range(HALF)):
            assert np.array_equal(frame.av_frame.to_ndarray(), expected[frame.frame_id])
        (alone,) = reader.frames([10])
    assert np.array_equal(alone.av_frame.to_ndarray(), expected[10])
    same_size = write_clip(tmp_path / "same.mkv", scene, codec="libsvtav1", gop=HALF, options={"preset": "8"})
    chosen = {"num_patches": 1000, "size": 112, "patch_size": 14}
    found, like = select_patches(path, **chosen), select_patches(same_size, **chosen)
    assert found.signal == like.signal == "vectors+residual (painted references)"
    kept, wanted = (np.bincount(s.positions[:, 0], minlength=HALF) for s in (found, like))
    for begin, end, least in ((1, 5, 0.9), (5, 13, 0.7), (13, HALF, 0.8)):
        assert 0.85 < kept[begin:end].sum() / wanted[begin:end].sum() < 1.2
        assert np.corrcoef(found.energy[begin:end].ravel(), like.energy[begin:end].ravel())[0, 1] > least


def test_mpeg2_loses_no_picture_where_its_size_changes(tmp_path):
    """FFmpeg's decoder throws away the picture that it holds back."""
    sizes = [(96, 128), (192, 256), (96, 128)]
    parts = [
        write_clip(tmp_path / f"{n}.ts", moving_scene(12, *size), codec="mpeg2video", bframes=0)
        for n, size in enumerate(sizes)
    ]
    path = join(tmp_path / "joined.ts", parts)
    with VideoReader(path) as reader:
        found = [frame.av_frame.to_ndarray() for frame in reader.frames(range(len(reader)))]
        (alone,) = reader.frames([23])
    expected = [frame for one in parts for frame in plain(one)]
    assert len(found) == 36 and all(map(np.array_equal, found, expected))
    assert np.array_equal(alone.av_frame.to_ndarray(), expected[23])


def test_pixels_of_another_size_are_laid_onto_the_same_grid(tmp_path):
    small = moving_scene(12, 96, 128, seed=5)
    parts = [
        write_clip(tmp_path / f"{n}.ts", scene, options={"crf": "8"}, bframes=0)
        for n, scene in enumerate((small, small.repeat(2, 1).repeat(2, 2)))
    ]
    with VideoReader(join(tmp_path / "joined.ts", parts)) as reader:
        one, other = (frame.rgb(96, 96).astype(int) for frame in reader.frames([7, 19]))
    assert np.abs(one - other).mean() < 6


def test_a_damaged_picture_is_no_signal_and_is_counted(clip):
    data = bytearray(clip.read_bytes())
    with VideoReader(clip) as reader:
        start, size = int(reader.index.start[17]), int(reader.index.size[17])
        whole = read_codec_signals(reader.name, frame_ids=range(30))
    for place in range(start + size // 2, start + size // 2 + 8):
        data[place] ^= 255
    found = read_codec_signals(bytes(data), frame_ids=range(30))
    assert np.isnan(found.residual[17]).all() and np.isnan(found.bits[17]).all()
    others = np.arange(30) != 17
    assert same(found.residual[others], whole.residual[others])
    assert found.signal["residual"].endswith("; 1 of 30 pictures are damaged")
    selection = select_patches(bytes(data), num_frames=48)
    assert (
        not selection.energy[17].any() and "(1 of 48 pictures are damaged and give none)" in selection.signal
    )


def test_a_stream_tells_where_its_parameter_sets_change_and_goes_on_right(made):
    processor = OneVisionVideoProcessor(num_frames=6, size=56)
    for name, how in (("h264-quality", ".mkv"), ("hevc-tools", ".ts"), ("h264-tools", "headers")):
        path, second, _ = made(name, how)
        with CodecStream(str(path), processor, window=0.4) as stream:
            items = list(stream)
        windows = [item for item in items if isinstance(item, StreamWindow)]
        events = [str(item) for item in items if not isinstance(item, StreamWindow)]
        assert len(events) == 2 and events[0].startswith("changed: other parameter sets from"), events
        after = [window for window in windows if window.segment == 1]
        assert len(after) >= 2 and after[0].start == 0
        expected = processor(str(second), start=after[1].start, end=after[1].end, return_tensors="pt")
        assert (after[1].inputs["pixel_values_videos"] == expected["pixel_values_videos"]).all(), name
        assert "damaged" not in after[1].selection.signal


def test_a_picture_set_that_changes_between_keyframes_is_followed(tmp_path):
    """As encoders do that set their quantiser anew: the set comes before a picture that is no keyframe."""
    from onevision_hf.modeling.bitstream import split_annex_b
    from onevision_hf.modeling.h264_bitstream import PPS

    path = write_clip(tmp_path / "clip.ts", moving_scene(HALF, 96, 128), gop=HALF, bframes=0)
    other = write_clip(
        tmp_path / "other.ts",
        moving_scene(2, 96, 128),
        bframes=0,
        options={"x264-params": "chroma-qp-offset=5"},
    )
    with av.open(str(other)) as container:
        (picture_set,) = [u for u in split_annex_b(bytes(next(container.demux(video=0)))) if u[0] & 31 == PPS]
    with av.open(str(path)) as old, av.open(str(tmp_path / "new.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if not packet.size:
                continue
            if number >= 10:
                renewed = av.Packet(b"\x00\x00\x00\x01" + picture_set + bytes(packet))
                renewed.pts, renewed.dts, renewed.time_base = packet.pts, packet.dts, packet.time_base
                packet = renewed
            packet.stream = stream
            new.mux(packet)
    with VideoReader(tmp_path / "new.mp4") as reader:
        sets = [reader.parameter_sets(frame_id).units for frame_id in range(HALF)]
        assert sets[9] != sets[10] and picture_set in sets[10] and sets[10] == sets[-1]
        maps = signal_maps(reader, np.arange(HALF), _geometry(reader))[0]
        assert np.isfinite(maps["residual"]).all()


def _geometry(reader):
    from onevision_hf.modeling.frame_geometry import FrameGeometry

    return FrameGeometry.fit(reader.height, reader.width, 56, 14)
