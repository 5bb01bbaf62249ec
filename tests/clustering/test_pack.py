"""A packed row is the media byte for byte with its labels, and any row can be read alone, by anybody."""

import io
import json
import multiprocessing
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import as_bytes, clip, draw_clips, draw_pictures, picture

from onevision_hf.clustering.assign import LabelShards, assign_labels, assign_tags
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import extract_features
from onevision_hf.clustering.kmeans import find_centers
from onevision_hf.clustering.pack import pack
from onevision_hf.data.media_shards import STAGE, PackedShards
from onevision_hf.data.sources import open_source
from onevision_hf.data.transcode import transcode
from onevision_hf.jobs.run_folder import RunFolder
from onevision_hf.modeling.patchify_config import select_patches
from onevision_hf.modeling.video_reader import VideoReader

SELECTION = {"num_frames": 8, "size": 64, "patch_size": 8, "num_patches": 128}


def labelled(media, kind, out, **source_options):
    source = open_source(media, **source_options)
    extract_features(
        source, out / "features", make_extractor("descriptors", num_frames=8), kind, shard_items=13
    )
    find_centers(out / "features", out / "kmeans", 6, iterations=4)
    assign_labels(out / "features", out / "labels", out / "kmeans", labels=3)
    return source


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return labelled(draw_pictures(folder / "media", each=4), "image", folder), folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return labelled(draw_clips(folder / "media", each=1), "video", folder), folder


def expected_labels(folder):
    shards = LabelShards(folder / "labels")
    return {r["key"]: r["labels"] for s in range(len(shards)) for r in shards.table(s).to_pylist()}


def test_any_row_can_be_read_alone(pictures, tmp_path):
    source, folder = pictures
    pack(source, folder / "labels", tmp_path / "out", "image", shard_items=10)
    rows, labels = PackedShards(tmp_path / "out"), expected_labels(folder)
    assert (
        len(rows) == 32 and rows.shard_rows == [10, 10, 10, 2] and (rows.head, rows.classes) == ("image", 6)
    )
    for number in (31, 0, 17, 5, 20, -1):
        row, item = rows[number], source.items[number]
        assert row.key == item.key and row.media == source.read(item) and row.format == "png"
        assert row.labels.tolist() == labels[row.key] and row.labels.dtype == np.int32
        assert (row.width, row.height, row.frames, row.kind, row.head) == (48, 48, 1, "image", "image")
        assert len(row.scores) == 3 and row.selection is None
    assert rows[2, 3].key == rows[23].key
    assert rows.table(3)["key"].to_pylist() == [item.key for item in source.items[30:]]
    for missing in (32, -33, (4, 0), (3, 2)):
        with pytest.raises(IndexError):
            rows[missing]


def _read_in_a_process(rows, numbers, results):
    results.put([(n, rows[n].key) for n in numbers])


def test_processes_share_the_rows_out_as_they_like(pictures, tmp_path):
    source, folder = pictures
    pack(source, folder / "labels", tmp_path / "out", "image", shard_items=10)
    rows = PackedShards(tmp_path / "out")
    assert rows[0].key  # files read before the fork are not shared with it
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [
        context.Process(target=_read_in_a_process, args=(rows, range(r, 32, 3), results)) for r in range(3)
    ]
    for child in children:
        child.start()
    found = dict(pair for _ in children for pair in results.get(timeout=60))
    for child in children:
        child.join(60)
    assert [found[n] for n in range(32)] == [item.key for item in source.items]


def test_tars_are_webdatasets_that_datasets_reads(pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    source, folder = pictures
    pack(source, folder / "labels", tmp_path / "out", "image", shard_items=16)
    tars = sorted(str(p) for p in (tmp_path / "out").glob("*.tar"))
    loaded = datasets.load_dataset(
        "webdataset", data_files=tars, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    samples = list(loaded)
    labels = expected_labels(folder)
    assert [s["json"]["key"] for s in samples] == [item.key for item in source.items]
    assert all(s["json"]["labels"] == labels[s["json"]["key"]] and s["png"].size == (48, 48) for s in samples)


def test_a_videos_selection_is_cached_beside_it(clips, tmp_path):
    source, folder = clips
    pack(source, folder / "labels", tmp_path / "out", "motion", selection=SELECTION)
    row = PackedShards(tmp_path / "out")[5]
    expected = select_patches(row.media, **SELECTION)
    assert row.media == source.read(source.items[5])
    assert np.array_equal(row.selection["positions"], expected.positions)
    assert row.selection["positions"].dtype == np.int16
    assert np.array_equal(row.selection["frame_ids"], expected.frame_ids)
    assert np.array_equal(row.selection["timestamps"], expected.timestamps)
    assert row.selection["grid"].tolist() == [8, 8]
    assert (row.kind, row.head, row.frames, row.width) == ("video", "motion", 16, 64)
    assert row.duration == pytest.approx(1.0)


def test_a_transcode_has_its_keyframes_where_asked_and_the_same_pictures(clips, tmp_path):
    source, folder = clips
    pack(source, folder / "labels", tmp_path / "out", "video", gop=5)
    original = source.read(source.items[3])
    media = PackedShards(tmp_path / "out")[3].media
    assert media == transcode(original, 5) != original
    with VideoReader(media) as new, VideoReader(original) as old:
        assert np.flatnonzero(new.index.keyframe).tolist() == [0, 5, 10, 15]
        np.testing.assert_allclose(new.timestamps, old.timestamps, atol=1e-4)
        for one, two in zip(new.frames(range(16)), old.frames(range(16)), strict=True):
            assert np.abs(one.rgb(64, 64).astype(int) - two.rgb(64, 64)).mean() < 6
            assert one.picture_type == ("I" if one.frame_id % 5 == 0 else "P")


def test_a_transcode_does_not_inherit_the_keyframes_of_its_source():
    with VideoReader(transcode(transcode(clip("red", "left", 0), 5), 7)) as reader:
        assert np.flatnonzero(reader.index.keyframe).tolist() == [0, 7, 14]


def test_a_transcode_needs_a_group_of_one_or_more():
    with pytest.raises(ValueError, match="gop must be 1 or more, found 0"):
        transcode(clip("red", "left", 0), 0)


def test_words_are_packed_for_the_pictures_that_have_some(tmp_path):
    media = draw_pictures(tmp_path / "media", each=1)
    keys = [item.key for item in open_source(media).items]
    lines = [{"key": key, "tags": "stop bus" if "disc" in key else ""} for key in keys]
    (tmp_path / "tags.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    source = labelled(media, "image", tmp_path, tags_file=tmp_path / "tags.jsonl")
    assign_tags(tmp_path / "features", tmp_path / "tags")
    pack(source, tmp_path / "tags", tmp_path / "out", "ocr")
    rows = PackedShards(tmp_path / "out")
    assert [rows[n].key for n in range(len(rows))] == [key for key in keys if "disc" in key]
    assert rows.classes == 2 and rows[0].labels.tolist() == [1, 0] and len(rows[0].scores) == 0


def test_what_changed_after_it_was_labelled_is_refused_or_rejected(tmp_path):
    media = draw_pictures(tmp_path / "media", each=2)
    source = labelled(media, "image", tmp_path)
    victim = media / "blue-disc" / "00.png"
    original = victim.stat()
    victim.write_bytes(as_bytes(picture("red", "stripes", 5)))
    with pytest.raises(ValueError, match="not what was labelled"):
        pack(open_source(media), tmp_path / "labels", tmp_path / "out", "image")
    # Changed between the listing and the reading: its labels must not go with other data.
    summary = pack(source, tmp_path / "labels", tmp_path / "out", "image", shard_items=5)
    assert (summary["items"], summary["rejected"], summary["rows"]) == (15, 1, [4, 5, 5, 1])
    line = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert line["key"] == "blue-disc/00.png" and "changed after" in line["reason"]
    assert original.st_size != victim.stat().st_size or original.st_mtime_ns != victim.stat().st_mtime_ns


def test_a_clip_that_cannot_have_the_budget_is_rejected_and_all_of_them_are_an_error(clips, tmp_path):
    source, folder = clips
    with pytest.raises(ValueError, match=r"none of the 12 items could be used; .*num_patches=9999"):
        pack(
            source, folder / "labels", tmp_path / "out", "video", selection={**SELECTION, "num_patches": 9999}
        )


def test_what_cannot_be_packed_is_said(pictures, tmp_path):
    source, folder = pictures
    with pytest.raises(ValueError, match="a head's name"):
        pack(source, folder / "labels", tmp_path / "out", "../image")
    with pytest.raises(ValueError, match="made by 'assign', expected 'pack'"):
        PackedShards(folder / "labels")


def test_a_pack_of_a_layout_that_is_gone_is_refused_with_what_to_do(tmp_path):
    settings = {"head": "image", "layout": "parquet"}
    with RunFolder(tmp_path, stage=STAGE, settings=settings, sources="x") as run:
        run.finish({"classes": 9, "rows": [2]})
    with pytest.raises(ValueError, match="layout 'parquet', which is no longer read: make them again"):
        PackedShards(tmp_path)


def test_shards_do_not_depend_on_when_or_where_they_are_made(clips, tmp_path):
    source, folder = clips
    for name in ("one", "two"):
        pack(
            source,
            folder / "labels",
            tmp_path / name,
            "video",
            gop=32,
            selection=SELECTION,
            workers=len(name),
        )
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    with tarfile.open(fileobj=io.BytesIO(one["video-00000.tar"])) as tar:
        assert {m.mtime for m in tar} == {0} and {m.uid for m in tar} == {0}
    assert pq.read_table(tmp_path / "one" / "video-00000.index.parquet").num_rows == 12
