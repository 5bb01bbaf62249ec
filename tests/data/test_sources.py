"""The same media are listed and read alike from a folder, parquet, tars and a dataset."""

import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import as_bytes, picture

from onevision_hf.data.items import MediaError, format_of, split_tags
from onevision_hf.data.sources import open_source
from onevision_hf.synthetic import ImageSettings, Job, produce
from onevision_hf.synthetic.preview import save_preview

CONTENT = {f"{n:02d}": as_bytes(picture("red" if n % 2 else "blue", "disc", n)) for n in range(7)}
TAGS = {name: ["Cat", "dog."] if int(name) % 2 else [] for name in CONTENT}


def write_tar(path, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            for extension, content in (
                ("png", CONTENT[name]),
                ("json", json.dumps({"words": TAGS[name]}).encode()),
            ):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def everywhere(tmp_path):
    """The pictures of CONTENT in every form: {kind of source: what to open}."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "tars").mkdir()
    (tmp_path / "parquet").mkdir()
    for n, (name, content) in enumerate(CONTENT.items()):
        (tmp_path / "folder" / ("sub" if n > 3 else ".") / f"{name}.png").write_bytes(content)
    (tmp_path / "folder" / "notes.txt").write_text("not a picture")
    write_tar(tmp_path / "tars" / "a.tar", list(CONTENT)[:4])
    write_tar(tmp_path / "tars" / "b.tar", list(CONTENT)[4:])
    rows = [{"bytes": content, "path": f"{name}.png"} for name, content in CONTENT.items()]
    table = pa.table({"image": rows, "words": list(TAGS.values())})
    pq.write_table(table.slice(0, 4), tmp_path / "parquet" / "a.parquet", row_group_size=3)
    pq.write_table(table.slice(4), tmp_path / "parquet" / "b.parquet")
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_dict({"image": rows, "words": list(TAGS.values())})
    saved.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "saved"))
    return {
        "folder": str(tmp_path / "folder"),
        "webdataset": str(tmp_path / "tars"),
        "parquet": str(tmp_path / "parquet"),
        "hf": str(tmp_path / "saved"),
    }


def test_every_kind_of_source_gives_the_same_bytes(everywhere):
    for kind, spec in everywhere.items():
        source = open_source(spec)
        assert [source.read(item) for item in source.items] == list(CONTENT.values()), kind
        assert {item.kind for item in source.items} == {"image"}
        backwards = [source.read(item) for item in reversed(source.items)]
        assert backwards == list(CONTENT.values())[::-1], kind


def test_tags_come_from_a_column_wherever_there_is_one(everywhere, tmp_path):
    expected = [("cat", "dog") if TAGS[name] else () for name in CONTENT]
    for kind in ("webdataset", "parquet", "hf"):
        source = open_source(everywhere[kind], tags_column="words")
        assert [item.tags for item in source.items] == expected, kind
        assert source.digest == open_source(everywhere[kind]).digest
    lines = [
        {"key": item.key, "words": " ".join(["Cat dog.", "cat"][:1])}
        for item in open_source(everywhere["folder"]).items
    ]
    (tmp_path / "tags.jsonl").write_text("\n".join(json.dumps(line) for line in lines[:2]))
    source = open_source(everywhere["folder"], tags_file=tmp_path / "tags.jsonl", tags_column="words")
    assert [item.tags for item in source.items] == [("cat", "dog")] * 2 + [None] * 5
    with pytest.raises(ValueError, match="--tags-file"):
        open_source(everywhere["folder"], tags_column="words")


def test_words_are_lower_case_without_punctuation_and_once():
    assert split_tags('Stop! (STOP) "the" the bus.') == ("stop", "the", "bus")
    assert split_tags(["New York", " "]) == ("new york",)
    assert split_tags(None) == ()


def test_a_digest_changes_with_the_files_and_with_nothing_else(everywhere, tmp_path):
    folder = everywhere["folder"]
    before = open_source(folder).digest
    assert open_source(f"folder:{folder}").digest == before
    moved = tmp_path / "moved"
    os.rename(folder, moved)
    assert open_source(moved).digest == before
    (moved / "00.png").write_bytes(CONTENT["01"])
    assert open_source(moved).digest != before


@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet"])
def test_a_file_that_changed_after_it_was_listed_is_never_read_as_what_it_was(everywhere, kind):
    source = open_source(everywhere[kind])
    path = source.items[0].path
    os.utime(path, ns=(1, 1))
    with pytest.raises(MediaError, match="changed after"):
        source.read(source.items[0])
    os.unlink(path)
    with pytest.raises(MediaError, match="cannot be opened any more"):
        source.read(source.items[0])


def test_what_is_ambiguous_or_empty_is_said(everywhere, tmp_path):
    write_tar(tmp_path / "folder" / "also.tar", ["00"])
    with pytest.raises(ValueError, match=r"folder:.*or webdataset:"):
        open_source(everywhere["folder"])
    assert len(open_source("folder:" + everywhere["folder"]).items) == 7
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures or videos"):
        open_source(tmp_path / "empty")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"2 columns of bytes .*--media-column"):
        open_source(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match="no column 'c' of bytes"):
        open_source(tmp_path / "two.parquet", media_column="c")
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"bad\.tar is not a readable tar"):
        open_source(tmp_path / "bad.tar")


def test_a_table_beside_media_is_not_a_source(everywhere, tmp_path):
    pq.write_table(pa.table({"path": ["00.png"], "label": [1]}), tmp_path / "folder" / "manifest.parquet")
    assert len(open_source(everywhere["folder"]).items) == 7


def test_formats_are_told_by_content():
    assert format_of(CONTENT["00"], "jpg") == "png"
    assert format_of(as_bytes(picture("red", "disc", 0), "jpg")) == "jpg"
    assert format_of(b"\0\0\0\x18ftypisom") == "mp4"
    assert format_of(b"", "mov") == "mov"


def test_of_a_drawn_folder_the_contact_sheet_is_no_medium(tmp_path):
    job = Job("images", image=ImageSettings(32, 32))
    produce(job, tmp_path, 3)
    save_preview(job, tmp_path, 3)
    assert [item.key for item in open_source(tmp_path).items] == [f"media/{n:06d}.png" for n in range(3)]
