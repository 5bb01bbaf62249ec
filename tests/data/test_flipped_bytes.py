"""Whatever byte of whatever finished file changes, its readers say so or give what they gave before."""

import os
import shutil

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip

pytest.importorskip("pyarrow", reason='needs the extra: pip install ".[train]"')

import pyarrow.parquet as pq
from corpora import SETTINGS, write_corpus
from drawn import draw_pictures
from safetensors.numpy import save

from onevision_hf import FeatureFolder
from onevision_hf.clustering.assign import LabelShards, assign_labels
from onevision_hf.clustering.dedup import dropped_rows, find_duplicates
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import FeatureShards, extract_features
from onevision_hf.clustering.kmeans import CenterFile, _load_state, _save_state, find_centers
from onevision_hf.clustering.pack import pack
from onevision_hf.clustering.spherical import State
from onevision_hf.data.labelled import Example
from onevision_hf.data.latents import LatentShards, fill_shards
from onevision_hf.data.media_shards import PackedShards
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.data.patch_extraction import extract_patches
from onevision_hf.data.patch_shards import PatchShards
from onevision_hf.data.sources import open_source
from onevision_hf.data.tensor_files import checked_rows, seal, unseal
from onevision_hf.eval.encode_folder import encode_folder
from onevision_hf.eval.probes.feature_cache import CachedTransform
from onevision_hf.jobs.digests import DamagedError, forget
from onevision_hf.jobs.run_folder import FinishedRun, RunFolder

PLACES = 8  # of each file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished folder of every kind that is read again, by the name of the kind."""
    root = tmp_path_factory.mktemp("made")
    pictures = open_source(draw_pictures(root / "pictures", each=1))
    extract_features(pictures, root / "features", make_extractor("descriptors"), "image", shard_items=5)
    find_duplicates(root / "features", root / "dedup", threshold=0.9)
    find_centers(root / "features", root / "centers", 3, iterations=2)
    assign_labels(root / "features", root / "labels", root / "centers", labels=2)
    pack(pictures, root / "labels", root / "packed", "image", shard_items=5)
    corpus = write_corpus(root / "corpus", each=1)
    extract_patches(str(corpus), root / "patches", SETTINGS, shard_items=2, workers=0)
    settings = {"num_frames": 4, "size": 56, "num_patches": 60}
    encode_folder(open_source(str(corpus)), root / "encoded", settings=settings, shard_items=2, workers=1)
    plan = {"shard_items": 5, "dtype": "float32"}
    with RunFolder(root / "latents", stage="latents", settings=plan, sources="") as run:
        numbers = {item.key: number for number, item in enumerate(pictures.items)}

        def encode(batch):
            return {"latents": torch.stack([torch.full((2, 3, 3), float(n)) for _, n in batch])}

        def prepare(item):
            return numbers[item.key]

        run.finish(fill_shards(run, pictures.items, prepare, encode, {}, batch_size=2, workers=1)
                   | {"shape": [2, 3, 3]})  # fmt: skip
    (root / "cache").mkdir()
    clip = write_clip(root / "clip.mp4", moving_scene(12, 64, 96, seed=1), gop=6)
    PatchCache(root / "cache", SETTINGS)(str(clip))
    (root / "tokens").mkdir()
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(9, 16)).astype(np.float16)
    positions = rng.integers(0, 9, (9, 3), np.int16)
    (root / "tokens" / "a.safetensors").write_bytes(seal({"tokens": tokens, "patch_positions": positions}))
    (root / "state").mkdir()
    state = State(torch.from_numpy(rng.normal(size=(3, 4)).astype(np.float32)), 2, [0.5, 0.75], [1, 0])
    (root / "state" / "state.safetensors").write_bytes(_save_state(state))
    return root


def rows_of(shards):
    return [vars(shards[number]) for number in range(len(shards))]


READERS = {
    "features": lambda p: [FeatureShards(p).table(i).to_pydict() for i in range(2)],
    "dedup": lambda p: dropped_rows(p, FeatureShards(p.parent / "features")),
    "centers": lambda p: CenterFile(p).read(),
    "labels": lambda p: [LabelShards(p).table(i).to_pydict() for i in range(2)],
    "packed": lambda p: rows_of(PackedShards(p)),
    "patches": lambda p: rows_of(PatchShards(p)),
    "encoded": lambda p: dict(FeatureFolder(p)),
    "latents": lambda p: [LatentShards(p).keys, *(LatentShards(p)[i] for i in range(8))],
    "cache": lambda p: PatchCache(p, SETTINGS)(str(p.parent / "clip.mp4")),
    "tokens": lambda p: CachedTransform()(
        Example("a", "video", str(p / "a.safetensors"), np.zeros(1, int)), None, 0
    ),
    "state": lambda p: vars(_load_state(p / "state.safetensors")),
}


def plain(value):
    """To be compared by `==`."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def read(kind, folder):
    """What a process that has read nothing yet gets."""
    forget()
    return plain(READERS[kind](folder))


@pytest.mark.parametrize("kind", READERS)
def test_no_flipped_byte_of_a_finished_folder_is_used_silently(made, tmp_path, kind):
    folder = made / kind
    before = read(kind, folder)
    rng = np.random.default_rng(0)
    errors = trials = 0
    for file in sorted(f for f in folder.iterdir() if not f.name.startswith(".lock") and f.stat().st_size):
        content = file.read_bytes()
        for place in rng.integers(0, len(content), PLACES):
            changed = bytearray(content)
            changed[place] ^= rng.integers(1, 256)
            file.write_bytes(changed)
            trials += 1
            try:
                found = read(kind, folder)
            except DamagedError as error:
                errors += 1
                assert f"{file} is damaged" in str(error), error
                assert "--redo`" in str(error) or f"`rm {file}`" in str(error), error
            else:
                assert found == before, f"byte {place} of {file}"
            finally:
                file.write_bytes(content)
    assert errors >= trials / 4  # the rest lies where no reader looks
    assert read(kind, folder) == before


TAR_PLACE = 700  # behind the header of the first member, and that of its array
HELD = {
    "patches": "patches-00000.tar",
    "latents": "latents-00000.safetensors",
    "encoded": "features-00000.safetensors",
    "cache": "*.safetensors",
    "tokens": "a.safetensors",
}


@pytest.mark.parametrize("kind", HELD)
def test_what_a_process_has_compared_it_does_not_compare_again_until_it_forgets(made, kind):
    [file] = (made / kind).glob(HELD[kind])
    before, content, status = read(kind, made / kind), file.read_bytes(), file.stat()
    place = TAR_PLACE if file.suffix == ".tar" else 9 + int.from_bytes(content[:8], "little")  # first tensor
    try:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert plain(READERS[kind](made / kind)) != before
        forget()
        with pytest.raises(DamagedError):
            READERS[kind](made / kind)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["cache", "tokens", "state"])
def test_a_sealed_file_in_place_of_one_that_was_compared_is_compared(made, kind):
    [file] = (made / kind).iterdir()
    read(kind, made / kind)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    (other := file.with_name("other")).write_bytes(content)
    os.replace(other, file)
    try:
        with pytest.raises(DamagedError):
            READERS[kind](made / kind)
    finally:
        content[-1] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("kind", sorted(READERS.keys() - {"cache", "tokens", "state"}))
def test_what_was_finished_before_there_were_digests_is_read_as_it_is(made, tmp_path, kind):
    before = read(kind, made / kind)
    for name in {kind, "features"}:
        shutil.copytree(made / name, tmp_path / name)
    for file in tmp_path.glob("*/digests*.json"):
        file.unlink()
    for index in tmp_path.glob("*/*.index.parquet"):
        table = pq.read_table(index)
        pq.write_table(table.select([n for n in table.column_names if not n.endswith("_xxh3")]), index)
    assert read(kind, tmp_path / kind) == before


@pytest.mark.parametrize("kind", ["cache", "tokens", "state"])
def test_files_that_were_written_before_they_were_sealed_are_read_as_they_are(made, tmp_path, kind):
    before = read(kind, made / kind)
    shutil.copy(made / "clip.mp4", tmp_path)
    (tmp_path / kind).mkdir()
    for file in (made / kind).iterdir():
        (tmp_path / kind / file.name).write_bytes(save(unseal(file)))
    assert read(kind, tmp_path / kind) == before


def test_redo_makes_damaged_features_centers_and_shards_again(made, tmp_path):
    for name in ("pictures", "features", "centers", "labels", "packed"):
        shutil.copytree(made / name, tmp_path / name)
    source = open_source(made / "pictures")
    stages = {
        "features": lambda p, **more: extract_features(
            source, p, make_extractor("descriptors"), "image", shard_items=5, **more
        ),
        "centers": lambda p, **more: find_centers(made / "features", p, 3, iterations=2, **more),
        "labels": lambda p, **more: assign_labels(
            made / "features", p, made / "centers", labels=2, **more
        ),
        "packed": lambda p, **more: pack(source, made / "labels", p, "image", shard_items=5, **more),
    }  # fmt: skip
    names = {
        "features": "features-00001.parquet", "centers": "centers.safetensors",
        "labels": "labels-00000.parquet", "packed": "image-00001.tar",
    }  # fmt: skip
    for kind, again in stages.items():
        folder = tmp_path / kind
        whole = {f.name: f.read_bytes() for f in folder.iterdir()}
        content = bytearray(whole[names[kind]])
        content[len(content) // 2] ^= 4
        (folder / names[kind]).write_bytes(content)
        again(folder, redo=True)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == whole, kind


def test_tensors_of_a_run_that_was_made_again_are_not_given_for_those_of_one_without_digests(tmp_path):
    shard = "latents-00000.safetensors"

    def fill(size: int) -> None:
        with RunFolder(tmp_path, stage="latents", settings={"size": size}, sources="a", redo=True) as run:
            with run.shard(shard) as path:
                path.write_bytes(save({"latents": np.full(4, size)}))
            run.finish({})
        for file in tmp_path.glob("digests*.json"):
            file.unlink()

    fill(1)
    run = FinishedRun(tmp_path, "latents")
    assert checked_rows(run, shard, {"latents": (0, 4)}) == tmp_path / shard
    fill(2)
    with pytest.raises(OSError, match="was made again, another way"):
        checked_rows(run, shard, {"latents": (0, 4)})


def test_a_folder_in_the_place_of_one_that_was_read_is_compared_anew(made, tmp_path):
    """The plan is the same, the content another: what a reader holds of the former is not taken for it."""
    for kind, names in (("patches", "*.tar"), ("latents", "*.safetensors")):
        folder = shutil.copytree(made / kind, tmp_path / kind)
        read = PatchShards(folder) if kind == "patches" else LatentShards(folder)
        for number in range(len(read)):
            read[number]
        for path in folder.glob(names):
            content = bytearray(path.read_bytes())
            third = len(content) // 3
            content[third : 2 * third] = bytes(value ^ 255 for value in content[third : 2 * third])
            path.unlink()
            path.write_bytes(content)
        with pytest.raises(DamagedError, match="are not what was written"):
            for number in range(len(read)):
                read[number]
