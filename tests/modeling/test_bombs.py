"""A few bytes can ask for gigabytes: they are refused by number, before anything is made room for."""

import io
import struct
import zlib

import numpy as np
import pytest
from clips import write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf import (
    OneVisionVideoProcessor,
    OneVisionVLVideoProcessor,
    VideoReader,
    VideoReadError,
    select_patches,
)
from onevision_hf.modeling import mp4_boxes
from onevision_hf.modeling.mp4_boxes import claimed_samples, length_of_boxes


def box(kind: bytes, content: bytes, is_long: bool = False) -> bytes:
    if is_long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def noise(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (4, height, width, 3), np.uint8)


counts = st.integers(0, 1 << 31)
claims = st.one_of(
    counts.map(lambda count: (box(b"stsz", struct.pack(">3I", 0, 1, count)), count)),
    counts.map(lambda count: (box(b"stsz", struct.pack(">3I", 0, 0, count)), 0)),
    counts.map(lambda count: (box(b"trun", struct.pack(">3I", 1, count, 0)), count)),
    counts.map(lambda count: (box(b"trun", struct.pack(">3I", 0x201, count, 0)), 0)),
    st.binary(max_size=30).map(lambda data: (box(b"free", data), 0)),
)
KINDS = b"moov trak mdia moof traf edts".split()


def beside(some: list[tuple[bytes, int]]) -> tuple[bytes, int]:
    return b"".join(data for data, _ in some), sum(count for _, count in some)


trees = st.recursive(
    st.lists(claims, max_size=4).map(beside),
    lambda inner: st.tuples(st.sampled_from(KINDS), inner, inner, st.booleans()).map(
        lambda drawn: beside([(box(drawn[0], drawn[1][0], drawn[3]), drawn[1][1]), drawn[2]])
    ),
    max_leaves=6,
)


@given(tree=trees, is_packed=st.booleans())
def test_samples_that_are_only_claimed_are_counted_wherever_their_table_lies(tree, is_packed):
    data, claimed = tree
    if is_packed:
        packed = struct.pack(">I", len(data)) + zlib.compress(data)
        data = box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", packed)))
    assert claimed_samples(io.BytesIO(data), len(data)) == claimed


def test_compressed_indexes_have_one_bound_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mp4_boxes, "MAX_INDEX_BYTES", 3000)
    packed = struct.pack(">I", 1008) + zlib.compress(box(b"free", bytes(1000)))
    index = [box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", packed) * n)) for n in range(4)]
    assert claimed_samples(io.BytesIO(index[2]), len(index[2])) == 0
    with pytest.raises(VideoReadError, match="its compressed indexes unpack to more than 3000 bytes"):
        VideoReader(index[3] + write_clip(tmp_path / "clip.mp4", noise()).read_bytes())


def test_compressed_indexes_that_break_off_count_as_far_as_they_were_unpacked():
    inflate = zlib.compressobj()
    head = inflate.compress(bytes(20 << 20)) + inflate.flush(zlib.Z_FULL_FLUSH)
    packed = box(b"cmvd", struct.pack(">I", 20 << 20) + head + b"\xff" * 4)
    index = [box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + packed * count)) for count in range(5)]
    assert claimed_samples(io.BytesIO(index[2]), len(index[2])) == 0
    with pytest.raises(ValueError, match="its compressed indexes unpack to more than 67108864 bytes"):
        claimed_samples(io.BytesIO(index[4]), len(index[4]))


@given(data=st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"\0\0\0\1free" + rest))
def test_garbage_claims_nothing_that_breaks_the_walk(data):
    assert claimed_samples(io.BytesIO(data), len(data)) >= 0
    end = length_of_boxes(io.BytesIO(data), len(data))
    assert end == 0 or end > len(data)


def test_an_index_of_millions_of_samples_in_a_small_file_is_refused(tmp_path):
    data = bytearray(write_clip(tmp_path / "clip.mp4", noise()).read_bytes())
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">2I", 1, 10_000_000)
    with pytest.raises(VideoReadError, match=f"names 10000000 samples, and it has {len(data)} bytes"):
        VideoReader(bytes(data))


@pytest.mark.parametrize("shape", [(16, 8192), (8192, 16)])
def test_frames_of_any_shape_are_refused_by_their_patches_and_skipped(tmp_path, shape):
    thin = write_clip(tmp_path / "thin.mp4", noise(*shape))
    good = write_clip(tmp_path / "good.mp4", noise())
    per_frame = 16 * 8192
    with pytest.raises(VideoReadError, match=rf"{per_frame} patches each .* max_patches=131071"):
        select_patches(thin, max_patches=per_frame - 1)
    processor = OneVisionVideoProcessor(max_patches=2000)
    found = processor([thin, good], errors="skip")
    assert len(found["pixel_values_videos"]) == 1
    ((index, reason),) = found["skipped"]
    assert index == 0 and "max_patches=2000" in reason
    whole = OneVisionVLVideoProcessor(max_patches=2000, video_mode="frames")
    with pytest.raises(VideoReadError, match="max_patches=2000"):
        whole(thin)


def test_decoded_frames_are_bounded_like_files():
    frames = np.zeros((3, 16, 8192, 3), np.uint8)
    with pytest.raises(VideoReadError, match="<frames>: its frames of 8192 x 16 pixels"):
        select_patches(frames, max_patches=1000)


def test_the_bound_is_saved_and_raised(tmp_path):
    OneVisionVideoProcessor(max_patches=300_000).save_pretrained(tmp_path)
    assert OneVisionVideoProcessor.from_pretrained(tmp_path).max_patches == 300_000


def test_a_rate_of_billions_is_refused_by_number(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", noise())
    with pytest.raises(ValueError, match=r"asks for .* moments of a video of 4 frames"):
        select_patches(clip, fps=1e9)
