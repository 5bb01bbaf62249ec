"""The signals: exact where they can be, named where they cannot be had, the same on every run."""

import ctypes
import os

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf import read_codec_signals
from onevision_hf.modeling import codec_signals as cs
from onevision_hf.modeling.bitstream import START_CODE, BitWriter
from onevision_hf.modeling.camera_motion import remove_camera_motion
from onevision_hf.modeling.h264_bitstream import SequenceParameters, grey_picture
from onevision_hf.modeling.standalone_decoder import StandaloneDecoder, UnsupportedStreamError
from onevision_hf.modeling.video_reader import VideoReader

RECORD = np.dtype(
    [("source", "i4"), ("w", "u1"), ("h", "u1")]
    + [(name, "i2") for name in ("src_x", "src_y", "dst_x", "dst_y")]
    + [("motion_x", "i4"), ("motion_y", "i4"), ("motion_scale", "u2")]
)


def record(source, left, top, width, height, dx, dy, scale=4):
    x, y = left + width // 2, top + height // 2
    return (source, width, height, x + dx // scale, y + dy // scale, x, y, dx, dy, scale)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """P pictures that are prediction + residual and nothing else: no deblocking, no weights, one
    reference."""
    options = {"crf": "20", "x264-params": "no-deblock=1:weightp=0:ref=1:bframes=0:scenecut=0:keyint=48"}
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    return write_clip(path, moving_scene(10, 96, 128, seed=3), bframes=0, gop=48, options=options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, moving_scene(30, 96, 128, seed=1), bframes=2, gop=15)


def test_vectors_lie_on_their_blocks_in_pixels_and_nan_elsewhere():
    records = np.array([record(-1, 16, 0, 16, 16, 6, -3), record(1, 16, 0, 16, 16, -4, 0)], RECORD)
    field = cs.vectors(records, 32, 48)
    assert field.shape == (8, 12, 2)
    assert (field[:4, 4:8] == [1.5, -0.75]).all()
    assert np.isnan(field[4:]).all() and np.isnan(field[:4, :4]).all() and np.isnan(field[:4, 8:]).all()
    assert (cs.vectors(records, 32, 48, reference="future")[:4, 4:8] == [-1, 0]).all()
    assert (cs.vectors(records, 32, 48, whole_pixels=True)[:4, 4:8] == [1, -1]).all()
    assert (cs.vectors(records, 32, 48, block=8)[:2, 2:4] == [1.5, -0.75]).all()


def test_either_direction_prefers_the_past():
    records = np.array(
        [record(1, 0, 0, 8, 8, 8, 8), record(-1, 8, 0, 8, 8, 4, 4), record(1, 8, 0, 8, 8, 0, 0)], RECORD
    )
    field = cs.vectors(records, 8, 16, reference="either")
    assert (field[:2, :2] == 2).all() and (field[:2, 2:] == 1).all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), x=st.integers(-3, 5), y=st.integers(-3, 5))
@settings(max_examples=40, deadline=None)
def test_blocks_over_the_border_are_cut_off(height, width, x, y):
    records = np.array([record(-1, x * 8, y * 8, 16, 16, 4, 8)], RECORD)
    field = cs.vectors(records, height, width)
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    inside = (
        (rows // 4 * 4 * 0 + rows >= y * 2) & (rows < y * 2 + 4) & (columns >= x * 2) & (columns < x * 2 + 4)
    )
    assert (~np.isnan(field[..., 0]) == inside).all()


@pytest.mark.parametrize("model", ["median", "similarity", "affine"])
def test_the_camera_is_removed_and_what_moves_by_itself_stays(model):
    rows, columns = np.mgrid[:30, :40].astype(float)
    zoom = 0 if model == "median" else 0.05
    turn = 0 if model == "median" else 0.02
    field = np.stack([3 + zoom * columns - turn * rows, -1 + turn * columns + zoom * rows], -1)
    if model == "affine":
        field[..., 0] += 0.04 * rows
    field = field.astype(np.float32)
    field[10:14, 10:14] += [6, 5]
    field[20:25] = np.nan
    left = remove_camera_motion(field, model)
    assert np.isnan(left[20:25]).all()
    moved = np.zeros((30, 40), bool)
    moved[10:14, 10:14] = True
    assert np.abs(left[moved] - [6, 5]).max() < 0.05
    still = ~moved & ~np.isnan(left[..., 0])
    assert np.abs(left[still]).max() < 0.05


def test_an_unknown_camera_model_is_named():
    with pytest.raises(ValueError, match=r"perspective.*similarity"):
        remove_camera_motion(np.zeros((4, 4, 2), np.float32), "perspective")


def test_the_exact_residual_is_frame_minus_shifted_previous_frame(plain):
    with VideoReader(plain) as reader:
        frames = list(reader.frames(range(10), motion_vectors=True))
        pictures = cs.read_standalone_pictures(reader, range(10))
    equal = total = 0
    for place in range(1, 10):
        luma, before = frames[place].luma.astype(int), frames[place - 1].luma.astype(int)
        field, found = cs.vectors(frames[place].motion_vectors, *luma.shape), cs.residual(pictures[place])
        for row, column in np.argwhere((field == np.round(field)).all(-1)):
            (dx, dy), y, x = field[row, column].astype(int), row * 4, column * 4
            if 0 <= y + dy <= 92 and 0 <= x + dx <= 124:
                truth = luma[y : y + 4, x : x + 4] - before[y + dy : y + dy + 4, x + dx : x + dx + 4]
                total += 1
                equal += np.array_equal(np.clip(truth, -128, 127), found[y : y + 4, x : x + 4])
    assert total > 1000 and equal >= 0.99 * total


def test_vectors_of_standalone_p_pictures_are_those_of_a_full_decode(plain):
    with VideoReader(plain) as reader:
        full = [frame.motion_vectors for frame in reader.frames(range(10), motion_vectors=True)]
        alone = [picture.vectors for picture in cs.read_standalone_pictures(reader, range(10))]
    for one, other in zip(full[1:], alone[1:], strict=True):
        assert np.array_equal(cs.vectors(one, 96, 128), cs.vectors(other, 96, 128), equal_nan=True)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_that_are_decoded_alone_have_zeros_behind_them(codec, tmp_path, monkeypatch):
    """Decoders read 64 bytes beyond the end of a packet, whatever lies there."""
    path = write_clip(tmp_path / "clip.mp4", moving_scene(6, 64, 96), codec=codec)
    behind = []

    class Watched:
        def __init__(self, context):
            self.context = context

        def __getattr__(self, name):
            return getattr(self.context, name)

        def decode(self, packet):
            if packet is not None:
                behind.append(ctypes.string_at(packet.buffer_ptr + packet.size, 64))
            return self.context.decode(packet)

    made = StandaloneDecoder._context
    monkeypatch.setattr(StandaloneDecoder, "_context", lambda decoder, *args: Watched(made(decoder, *args)))
    with VideoReader(path) as reader:
        packets = [bytes(packet) for packet in av.open(str(path)).demux(video=0) if packet.size]
        StandaloneDecoder(reader.codec).decode(packets, [reader.parameter_sets(0)] * len(packets))
    assert len(behind) >= 6 and set(behind) == {bytes(64)}


@pytest.mark.parametrize("chroma", [0, 1, 2])
@pytest.mark.parametrize("poc", [0, 1, 2])
def test_the_grey_picture_is_grey(chroma, poc):
    """Its own sequence parameters in front, it must decode to 128 everywhere."""
    writer = BitWriter().bits(122, 8).bits(0, 8).bits(40, 8).unsigned(0)
    writer.unsigned(chroma).unsigned(0).unsigned(0).bits(0, 2)
    writer.unsigned(2).unsigned(poc)
    if poc == 0:
        writer.unsigned(3)
    elif poc == 1:
        writer.bits(0, 1).unsigned(0).unsigned(0).unsigned(0)
    writer.unsigned(1).bits(0, 1).unsigned(4).unsigned(2).bits(0b1100, 4)
    sequence = SequenceParameters(0, chroma, 8, 6, poc, 7 if poc == 0 else 0, False, 5, 3, True)
    units = [writer.nal_unit(b"\x67"), *grey_picture(sequence, 200)]
    context = av.CodecContext.create("h264", "r")
    packet = av.Packet(b"".join(START_CODE + unit for unit in units))
    frames = [*context.decode(packet), *context.decode(None)]
    assert len(frames) == 1 and (frames[0].width, frames[0].height) == (80, 48)
    for plane in frames[0].planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        assert (rows[: plane.height, : plane.width] == 128).all()


def test_signals_of_a_video_on_the_streams_own_grid(clip):
    signals = read_codec_signals(clip, num_frames=12)
    assert signals.vectors.shape == (12, 24, 32, 2) and signals.vectors.dtype == np.float32
    assert signals.residual.shape == signals.bits.shape == (12, 6, 8)
    assert signals.residual.dtype == signals.bits.dtype == np.float32
    intra = np.array([kind == "I" for kind in signals.picture_types])
    assert intra.any() and not intra.all()
    for values in (signals.residual, signals.bits):
        assert np.isnan(values[intra]).all() and not np.isnan(values[~intra]).any()
    assert np.isnan(signals.vectors[intra]).all()
    assert set(signals.signal) == {"vectors", "residual", "bits"}
    with VideoReader(clip) as reader:
        assert (signals.packet_sizes == reader.index.size[signals.frame_ids]).all()
        frames = {f.frame_id: f for f in reader.frames(signals.frame_ids, motion_vectors=True)}
    for place, frame_id in enumerate(signals.frame_ids):
        expected = cs.vectors(frames[frame_id].motion_vectors, 96, 128, reference="either")
        assert np.array_equal(signals.vectors[place], expected, equal_nan=True)


def test_bits_of_a_picture_add_up_to_its_packet(clip):
    signals = read_codec_signals(clip, num_frames=12, signals=("bits",))
    assert signals.vectors is None and signals.residual is None
    sums = signals.bits.sum((1, 2))
    known = ~np.isnan(sums) & (sums > 0)
    assert known.any() and np.allclose(sums[known], 8 * signals.packet_sizes[known], rtol=1e-4)


def test_frames_can_be_named_and_come_in_that_order(clip):
    named = read_codec_signals(clip, frame_ids=[7, 3, 7], signals=("residual",))
    assert named.frame_ids.tolist() == [7, 3, 7]
    assert np.array_equal(named.residual[0], named.residual[2], equal_nan=True)
    alone = read_codec_signals(clip, frame_ids=[3], signals=("residual",))
    assert np.array_equal(named.residual[1], alone.residual[0], equal_nan=True)


@pytest.mark.parametrize(
    "wrong", [{"frame_ids": [99]}, {"frame_ids": [-1]}, {"num_frames": 0}, {"signals": ("luck",)}]
)
def test_wrong_arguments_are_errors(clip, wrong):
    with pytest.raises(ValueError, match=r"99|-1|positive|luck"):
        read_codec_signals(clip, **wrong)


def test_what_a_codec_does_not_give_is_none_and_said(tmp_path):
    path = write_clip(tmp_path / "clip.avi", moving_scene(8, 64, 64), codec="mjpeg", pix_fmt="yuvj420p")
    signals = read_codec_signals(path, signals=("vectors", "residual", "bits", "age"))
    assert (signals.vectors, signals.residual, signals.bits, signals.age) == (None,) * 4
    assert all("mjpeg" in reason for reason in signals.signal.values()) and len(signals.signal) == 4
    assert len(signals.picture_types) == len(signals.packet_sizes) == 8


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", "mp4"), ("libvpx-vp9", "webm")])
def test_codecs_whose_decoders_export_nothing_give_vectors_residual_and_age(codec, suffix, tmp_path):
    path = write_clip(tmp_path / f"clip.{suffix}", moving_scene(12, 64, 96), codec=codec)
    signals = read_codec_signals(path)
    assert signals.vector_unit == "frame" and signals.signal["vectors"].startswith("painted references")
    assert signals.vectors.shape == (12, 16, 24, 2) and signals.age.shape == (12, 16, 24)
    assert signals.residual.shape == (12, 4, 6) and np.nansum(signals.residual) > 0
    intra = np.array([kind == "I" for kind in signals.picture_types])
    for values in (signals.vectors, signals.age, signals.residual):
        assert np.isnan(values[intra]).all() and not np.isnan(values[~intra]).all()
    if codec == "libx265":  # whose packets can be decoded alone too
        assert signals.signal["residual"].startswith("exact") and np.nansum(signals.bits) > 0
    else:
        assert signals.bits is None and "vp9" in signals.signal["bits"]


@pytest.mark.parametrize(
    ("pix_fmt", "options", "reason"),
    [
        ("yuv420p10le", {}, "10 bits"),
        ("yuv444p", {}, "4:4:4"),
        ("yuv420p", {"x264-params": "tff=1"}, "interlaced"),
    ],
)
def test_streams_without_an_exact_residual_are_named(tmp_path, pix_fmt, options, reason):
    frames = moving_scene(8, 64, 64)
    path = write_clip(tmp_path / "clip.mkv", frames, pix_fmt=pix_fmt, options=options)
    with VideoReader(path) as reader, pytest.raises(UnsupportedStreamError, match=reason):
        cs.read_standalone_pictures(reader, [0, 1])
    signals = read_codec_signals(path)
    assert signals.residual is None and reason in signals.signal["residual"]


def test_signals_are_the_same_on_every_run_and_under_any_thread_count(clip, monkeypatch):
    def read():
        found = read_codec_signals(clip)
        return [found.vectors.tobytes(), found.residual.tobytes(), found.bits.tobytes()]

    first = read()
    assert all(read() == first for _ in range(3))
    for cores in (1, 3, 8):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert read() == first


@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    cell=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_block_means_average_what_there_is_of_a_block(height, width, cell, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    found = cs.block_mean(values, cell)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            block = values[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            assert found[row, column] == pytest.approx(block.mean(), rel=1e-6)


@pytest.mark.block_qp
def test_bits_follow_the_bits_really_spent(real_clips):
    data = np.load(real_clips / "beach.bitcost.npz")
    found = read_codec_signals(real_clips / "beach.mp4", frame_ids=data["frame_ids"], signals=("bits",))
    inter = data["picture_types"].astype(str) != "I"
    truth, ours = data["macroblock_bits"][inter][..., :23], found.bits[inter]
    count = round(0.125 * truth.size)
    chosen = [set(np.argsort(-v.ravel(), kind="stable")[:count].tolist()) for v in (truth, ours)]
    assert len(chosen[0] & chosen[1]) / count >= 0.74
