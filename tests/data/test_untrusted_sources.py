"""Folders, tars, tables and pictures that somebody else made: nothing hangs, ends a job, or leads out."""

import io
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from onevision_hf.data.captions import FolderPairs, open_pairs
from onevision_hf.data.items import MediaError
from onevision_hf.data.media import open_picture
from onevision_hf.data.sources import open_source
from onevision_hf.modeling.pictures import load_picture


def picture(path, side=8):
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(path)
    return path


def test_a_folder_with_pipes_and_links_to_itself_lists_its_files_once(tmp_path):
    (tmp_path / "inner").mkdir()
    picture(tmp_path / "inner" / "a.png")
    os.symlink(tmp_path, tmp_path / "inner" / "back")
    os.symlink(tmp_path / "inner", tmp_path / "other")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.warns(UserWarning, match="2 names of media are no files"):
        items = open_source(str(tmp_path))
    assert [item.key for item in items.items] == ["inner/a.png"]


@pytest.mark.parametrize("content", ["[1, 2]", '"text"', "3", "null"])
def test_a_sample_whose_json_is_no_object_is_named(tmp_path, content):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (
            ("one.png", picture(tmp_path / "a.png").read_bytes()),
            ("one.json", content.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ValueError, match=r"a\.tar .*one\.json: holds a .* and no object"):
        open_source(f"webdataset:{tmp_path}", tags_column="tags")
    with pytest.raises(MediaError, match=r"holds a .* and no object"):
        open_pairs(f"webdataset:{tmp_path}")[0]


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.png", "inner/../../secret.png"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    picture(tmp_path / "secret.png")
    folder = tmp_path / "drawn"
    folder.mkdir()
    table = pa.table({"path": [name], "captions": [["one"]]}).replace_schema_metadata({"kind": "images"})
    pq.write_table(table, folder / "manifest.parquet")
    with pytest.raises(ValueError, match="outside of its folder"):
        open_pairs(f"synth:{folder}")


def test_a_picture_of_hundreds_of_megabytes_in_a_few_kilobytes_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    assert path.stat().st_size < 50_000
    with pytest.raises(MediaError, match="12000 x 12000 pixels in"):
        open_picture(path.read_bytes())
    with pytest.raises(OSError, match="12000 x 12000 pixels in"):
        load_picture(str(path))


def test_a_large_picture_with_its_bytes_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (6000, 6000), np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).save(path, quality=5)
    assert load_picture(str(path)).size == (6000, 6000)


def test_a_table_with_a_quote_that_never_ends_is_named(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text('file_name,caption\na.jpg,one\nb.jpg,"' + "x" * 140_000)
    with pytest.raises(ValueError, match=r"table\.csv cannot be read behind line 2: field larger"):
        FolderPairs(table, tmp_path, "", ())
