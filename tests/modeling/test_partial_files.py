"""Truncated files: refused whole by default, read as far as they go with errors="partial"."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from clip_zoo import remux
from clips import moving_scene, write_clip

from onevision_hf import (
    OneVisionVideoProcessor,
    VideoReader,
    VideoReadError,
    read_codec_signals,
    select_patches,
)
from onevision_hf.cli import main
from onevision_hf.clustering.pictures import tile
from onevision_hf.data.items import format_of
from onevision_hf.data.media_shards import PackedShards
from onevision_hf.data.sources import open_source
from onevision_hf.data.transcode import complete

FRAMES = 60
WRITTEN = ("h264.mp4", "h264.mov", "h264.mkv", "mpeg4.avi")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """name -> path of 60 frames, with the index in front where the container has one."""
    folder = tmp_path_factory.mktemp("whole")
    scene, found = moving_scene(FRAMES, 64, 96), {}
    for name in WRITTEN:
        codec, bframes = ("mpeg4", 0) if name.startswith("mpeg4") else ("libx264", 2)
        found[name] = write_clip(folder / name, scene, codec=codec, bframes=bframes)
        if Path(name).suffix in (".mp4", ".mov"):
            found[name] = folder / f"front-{name}"
            remux(folder / name, found[name], options={"movflags": "faststart"})
    return found


def cut_before(path, count: int) -> bytes:
    """The file up to the middle of the packet that is decoded after `count` others."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][count]
        return path.read_bytes()[: packet.pos + packet.size // 2]


@pytest.mark.parametrize("left", [5, 37, 54])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_is_read_and_what_is_missing_is_told(name, left, whole):
    data = cut_before(whole[name], left)
    with pytest.raises(VideoReadError, match="is truncated"):
        VideoReader(data)
    with VideoReader(whole[name]) as complete:
        assert complete.missing == "" and complete.promised_frames == FRAMES
        pictures = {f.frame_id: f.av_frame.to_ndarray() for f in complete.frames(range(FRAMES))}
        rank, times = complete.index.rank, complete.timestamps
    with VideoReader(data, errors="partial") as reader:
        assert len(reader) == left and reader.promised_frames == FRAMES
        assert reader.missing == f"is truncated: {left} of {FRAMES} frames are there"
        there = np.flatnonzero(rank < left)  # the frames whose packets are whole
        assert np.allclose(reader.timestamps, times[there] - times[there[0]])
        for frame in reader.frames(range(left)):
            assert np.array_equal(frame.av_frame.to_ndarray(), pictures[int(there[frame.frame_id])])


def test_a_whole_file_is_read_the_same_either_way(whole):
    for path in whole.values():
        with VideoReader(path) as strict, VideoReader(path, errors="partial") as lenient:
            assert lenient.missing == "" and np.array_equal(strict.index.pts, lenient.index.pts)


def test_a_fragmented_recording_gives_its_whole_part(whole, tmp_path):
    path = tmp_path / "fragments.mp4"
    remux(whole["h264.mp4"], path, options={"movflags": "frag_keyframe+empty_moov"})
    with VideoReader(cut_before(path, 40), errors="partial") as reader:
        assert len(reader) == 40 and len(list(reader.frames(range(40)))) == 40
        assert reader.missing.startswith("is truncated: 40 ")


def test_a_file_without_its_index_is_refused_all_the_same(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", moving_scene(12, 64, 96))
    with pytest.raises(VideoReadError):
        VideoReader(path.read_bytes()[:-200], errors="partial")
    with pytest.raises(ValueError, match='errors must be "raise" or "partial"'):
        VideoReader(path, errors="maybe")


def test_selections_processors_and_signals_say_how_much_there_is(whole):
    data, told = cut_before(whole["h264.mp4"], 54), "is truncated: 54 of 60 frames are there"
    with pytest.raises(VideoReadError, match="is truncated"):
        select_patches(data)
    assert told in select_patches(data, errors="partial").signal
    assert read_codec_signals(data, num_frames=8, errors="partial").residual.shape[0] == 8
    processor = OneVisionVideoProcessor(num_frames=8, size=56)
    videos = [str(whole["h264.mp4"]), data]
    inputs = processor(videos, errors="partial", return_tensors="pt")
    assert inputs["partial"] == [(1, told)] and len(inputs["pixel_values_videos"]) == 2
    assert processor(videos, errors="skip", return_tensors="pt")["skipped"][0][0] == 1
    assert processor(videos[:1], errors="partial", return_tensors="pt")["partial"] == []


@pytest.fixture
def corpus(whole, tmp_path):
    """A folder of one whole clip, one that is truncated and one that is nothing."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(whole["h264.mp4"].read_bytes())
    (folder / "b.mp4").write_bytes(cut_before(whole["h264.mp4"], 54))
    (folder / "c.mp4").write_bytes(b"\x00" * 500)
    return folder


def lines(path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        ["patches", "--num-frames", "4", "--num-patches", "300", "--size", "56", "--workers", "0"],
        ["cluster", "features", "--teacher", "descriptors"],
    ],
)
def test_batch_jobs_count_what_is_there_in_part(command, corpus, tmp_path, capsys):
    words = [word for word in command if not word.startswith("-")][: 2 if command[0] == "cluster" else 1]
    options = command[len(words) :]
    out = tmp_path / "partial"
    main([*words, str(corpus), str(out), *options, "--errors", "partial", "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["items"], summary["rejected"], summary["partial"]) == (2, 1, 1)
    (partial,), (rejected,) = lines(out / "partial.jsonl"), lines(out / "rejected.jsonl")
    assert "b.mp4" in partial["key"] and partial["reason"] == "is truncated: 54 of 60 frames are there"
    assert "c.mp4" in rejected["key"]
    main([*words, str(corpus), str(tmp_path / "whole"), *options, "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["items"], summary["rejected"], summary.get("partial")) == (1, 2, None)


def test_encode_takes_a_truncated_clip_when_asked(corpus, capsys):
    assert main(["encode", str(corpus / "b.mp4"), "--num-frames", "4", "--json"]) == 1
    capsys.readouterr()
    main(["encode", str(corpus / "b.mp4"), "--num-frames", "4", "--errors", "partial", "--json"])
    (report,) = json.loads(capsys.readouterr().out)["clips"]
    assert report["frames"] == 54 and "54 of 60 frames are there" in report["signal"]


def test_clusters_are_made_packed_and_drawn_of_what_is_there_in_part(corpus, tmp_path, capsys):
    """As whole files: the packed clip is read without a word, and has the frames that were there."""
    words = ["cluster", "run", str(corpus), str(tmp_path / "out"), "--teacher", "descriptors", "--json"]
    words += ["--clusters", "1", "--keep-duplicates", "--errors", "partial"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["video"]
    assert (result["items"], result["rejected"], result["partial"]) == (2, 1, 1)
    assert result["packed"] == {"video": 2}
    (partial,) = lines(tmp_path / "out/shards/video/partial.jsonl")
    assert "b.mp4" in partial["key"] and partial["reason"] == "is truncated: 54 of 60 frames are there"
    whole, cut = PackedShards(tmp_path / "out/shards/video")
    assert whole.media == (corpus / "a.mp4").read_bytes() and cut.frames == 54
    with VideoReader(cut.media) as packed, VideoReader(corpus / "b.mp4", errors="partial") as there:
        assert packed.missing == "" and np.allclose(packed.timestamps, there.timestamps)
        for one, other in zip(packed.frames(range(54)), there.frames(range(54)), strict=True):
            assert np.array_equal(one.av_frame.to_ndarray(), other.av_frame.to_ndarray())
    drawn = tile(open_source(str(corpus)), open_source(str(corpus)).items[1])
    assert drawn.width > 2 * drawn.height  # three frames, not the cross of a broken clip
    pack = ["cluster", "pack", str(corpus), str(tmp_path / "out/video/labels")]
    assert main([*pack, str(tmp_path / "strict"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["items"], summary["rejected"], summary.get("partial")) == (1, 1, None)
    chosen = ["--transcode", "gop=16", "--select", "num_patches=64,num_frames=4,size=56"]
    assert main([*pack, str(tmp_path / "chosen"), *chosen, "--errors", "partial", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["items"], summary["rejected"], summary["partial"]) == (2, 0, 1)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_is_copied_into_a_whole_file_of_its_kind(name, whole):
    content = whole[name].read_bytes()
    assert complete(content) == (content, "")
    data = cut_before(whole[name], 37)
    copied, missing = complete(data)
    assert missing == "is truncated: 37 of 60 frames are there"
    assert format_of(copied) == format_of(content)
    with VideoReader(copied) as reader, VideoReader(data, errors="partial") as there:
        assert np.array_equal(reader.index.size, there.index.size)
        for one, other in zip(reader.frames(range(37)), there.frames(range(37)), strict=True):
            assert np.array_equal(one.av_frame.to_ndarray(), other.av_frame.to_ndarray())


@pytest.mark.parametrize("model", ["descriptors", "tiny"])
def test_neighbours_are_found_of_what_is_there_in_part(model, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for label in ("one", "two"):
        (tmp_path / "classes" / label).mkdir(parents=True)
        for number, name in enumerate("aab"):
            place = tmp_path / "classes" / label / f"{number}.mp4"
            place.write_bytes((corpus / f"{name}.mp4").read_bytes())
    words = ["eval", "knn", str(tmp_path / "classes"), "--model", model]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["rejected"], found.get("partial")) == (4, 2, None)
    assert main([*words, "--errors", "partial", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["rejected"], found["partial"]) == (6, 0, 2)
    assert found["partial_items"][0]["reason"] == "is truncated: 54 of 60 frames are there"
    assert main([*words, "--errors", "partial"]) == 0
    assert "0 rejected, 2 truncated and used in part" in capsys.readouterr().out


def test_a_view_of_a_truncated_clip_says_how_much_is_missing(corpus, tmp_path, capsys):
    words = ["view", str(corpus / "b.mp4"), "--out", str(tmp_path / "view.png"), "--num-frames", "4"]
    assert main(words) == 1 and "is truncated" in capsys.readouterr().err
    assert main([*words, "--errors", "partial"]) == 0
    assert "the clip is truncated: 54 of 60 frames are there" in capsys.readouterr().out
    assert main([*words, "--errors", "partial", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 54 and "54 of 60 frames are there" in report["signal"]
