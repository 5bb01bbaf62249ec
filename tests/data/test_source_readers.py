"""A source says in JSON how its items are read, so that another process can read them too."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import as_bytes, draw_pictures, picture

from onevision_hf.data.sources import open_reader, open_source


def folder(path):
    return draw_pictures(path / "media", each=1)


def webdataset(path):
    with tarfile.open(path / "shard.tar", "w") as tar:
        for number in range(3):
            content = as_bytes(picture("red", "disc", number))
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path / "shard.tar"


def parquet(path):
    media = [as_bytes(picture("red", "disc", number)) for number in range(5)]
    pq.write_table(pa.table({"image": media, "n": range(5)}), path / "rows.parquet", row_group_size=2)
    return path / "rows.parquet"


def dataset(path):
    import datasets

    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [picture("red", "disc", number) for number in range(3)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path / "saved"))
    return path / "saved"


@pytest.mark.parametrize("make", [folder, webdataset, parquet, dataset])
def test_a_reader_from_json_reads_the_same(make, tmp_path):
    source = open_source(make(tmp_path))
    read = open_reader(json.loads(json.dumps(source.reader)))
    assert len(source.items) >= 3
    for item in source.items:
        assert read(item) == source.open(item)


def test_an_unknown_reader_is_refused():
    with pytest.raises(ValueError, match="no reader is called 'ftp'"):
        open_reader({"scheme": "ftp"})
