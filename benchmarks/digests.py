"""What it costs to compare finished files with their digests when they are read first.

    make bench-digests
    python benchmarks/digests.py --rounds 15 --only latents

Everything is there twice: as it is made now, and as it was before there were digests, which is read as it is.
Both are read by turns: as by a process that has read nothing of them yet, from the disk (the kernel was told
to drop the pages) and out of memory, its page cache; and from there once more. Told is the wall time of one
thread without digests, and how much longer it takes with them: medians over the rounds, and the standard
error of the latter. "Used" adds what the product does with what it read: labels are assigned, a training
makes batches of the patches.
"""

import argparse
import contextlib
import os
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save

from onevision_hf import FeatureFolder, bundled_clip
from onevision_hf.clustering.assign import LabelShards, assign_labels
from onevision_hf.clustering.features import FeatureShards, extract_features
from onevision_hf.clustering.kmeans import CENTERS, CenterFile, find_centers
from onevision_hf.data import tar_shards
from onevision_hf.data.items import Item, Source
from onevision_hf.data.latents import LatentShards
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.data.patch_extraction import DEFAULT
from onevision_hf.data.patch_shards import STAGE, PatchExample, PatchShards, ShardWriter
from onevision_hf.data.tensor_files import unseal
from onevision_hf.eval.feature_folder import INDEX
from onevision_hf.jobs import digests
from onevision_hf.jobs.run_folder import RunFolder, canonical_json
from onevision_hf.training.loader import collate
from onevision_hf.training.patch_transform import PatchTransform
from onevision_hf.training.tasks.cluster_config import HeadConfig

DIM, ROWS, CLUSTERS = 768, 8192, 100
CLIPS, PATCHES, SIDE, CACHED = 48, 2048, 14, 16
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where writing is no wait for a disk


class Given:
    """Features that are rows of a matrix."""

    identity = {"teacher": "given"}

    def __init__(self, rows: torch.Tensor):
        self.rows = torch.nn.functional.normalize(rows, dim=1)

    def prepare(self, content: Any, kind: str) -> int:
        return int(content)

    def encode(self, prepared: Any) -> torch.Tensor:
        return self.rows[list(prepared)]


def make_clusters(root: Path) -> None:
    rows = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    items = [Item(f"{n:06d}", "image", "", n, 0, n) for n in range(ROWS)]
    source = Source(items, lambda item: str(item.place).encode())
    extract_features(source, root / "features", Given(rows), "image", batch_size=1024)  # type: ignore[arg-type]
    find_centers(root / "features", root / "centers", CLUSTERS, iterations=1)
    assign_labels(root / "features", root / "labels", root / "centers")


def make_patches(out: Path, per_shard: int = 16) -> None:
    rng = np.random.default_rng(0)
    plan = {**DEFAULT.as_stored().recorded(), "layout": tar_shards.LAYOUT, "classes": None}
    with RunFolder(out, stage=STAGE, settings=plan, sources="") as run:
        for shard in range(CLIPS // per_shard):
            tar, index = tar_shards.shard_names(STAGE, shard)
            with run.shard(index, tar) as (index_path, tar_path):
                writer = ShardWriter([tar_path, index_path], shard * per_shard)
                for number in range(per_shard):
                    writer.add_example(clip(f"{shard}-{number}", rng))
                writer.close()
        run.finish({"rows": [per_shard] * (CLIPS // per_shard)})


def clip(key: str, rng: np.random.Generator) -> PatchExample:
    return PatchExample(
        key, "0" * 64, np.zeros(10, np.int32), "vectors", 640, 360, 120, 5.0, 64, PATCHES, 16, 16,
        rng.integers(0, 256, (PATCHES, 3, SIDE, SIDE), np.uint8),
        rng.integers(0, 16, (PATCHES, 3), np.int16), np.arange(64.0),
    )  # fmt: skip


def make_tensors(root: Path) -> None:
    from safetensors.torch import save_file

    keys = [f"{n:03d}.mp4" for n in range(32)]
    with RunFolder(root / "encoded", stage="encode", settings={}, sources="") as run:
        with run.shard("features-00000.safetensors") as path:
            rows = {f"{k}/last_hidden_state": torch.randn(PATCHES, DIM).half() for k in keys}
            places = {f"{k}/patch_positions": torch.zeros(PATCHES, 3, dtype=torch.int64) for k in keys}
            save_file(rows | places, path)
        index = {k: {"shard": "features-00000.safetensors", "kind": "video"} for k in keys}
        run.write(INDEX, canonical_json(index))
        run.finish({})
    with RunFolder(root / "many centers", stage="kmeans", settings={}, sources="") as run:
        save_file({"centers": torch.randn(20_000, DIM)}, run.path / CENTERS)
        run.finish({})
    with RunFolder(root / "latents", stage="latents", settings={}, sources="") as run:
        with run.shard("latents-00000.safetensors", "keys-00000.json") as (path, names):
            save_file({"latents": torch.randn(1024, 16, 32, 32).half()}, path)
            names.write_text(canonical_json([str(n) for n in range(1024)]))
        run.finish({"rows": [1024], "shards": 1, "shape": [16, 32, 32]})
    (root / "cache").mkdir()
    cache(root)


def take_digests_out(root: Path) -> None:
    """Leave every folder as it was before there were digests; files are links, and are not written into."""
    for file in root.glob("*/digests*.json"):
        file.unlink()
    for index in root.glob("*/*.index.parquet"):
        table = pq.read_table(index)
        index.unlink()
        pq.write_table(table.select([n for n in table.column_names if not n.endswith("_xxh3")]), index)
    for file in (root / "cache").iterdir():
        tensors = unseal(file)
        file.unlink()
        file.write_bytes(save(tensors))


def features(root: Path) -> None:
    shards = FeatureShards(root / "features")
    for shard in range(len(shards)):
        shards.matrix(shard)


def centers(root: Path) -> None:
    for _ in CenterFile(root / "many centers").blocks(4096):
        pass


def assigned(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as out:
        assign_labels(root / "features", out, root / "centers")


def labels(root: Path) -> None:
    shards = LabelShards(root / "labels")
    for shard in range(len(shards)):
        shards.table(shard).to_pylist()


def patches(root: Path, used: bool = False) -> None:
    shards = PatchShards(root / "patches")
    show = PatchTransform(HeadConfig(kind="video", codec=1, uniform=0, collage=0), DEFAULT)
    for start in range(0, CLIPS, 4):
        rows = [shards[(17 * number) % CLIPS] for number in range(start, start + 4)]
        if used:
            collate([show(row, None, 0) for row in rows])


def encoded(root: Path) -> None:
    folder = FeatureFolder(root / "encoded")
    for key in sorted(folder, key=lambda key: key[::-1]):
        {name: tensor.float() for name, tensor in folder[key].items()}


def latents(root: Path) -> None:
    rows = LatentShards(root / "latents")
    for number in range(1024):
        rows[(617 * number) % 1024].float()


def cache(root: Path) -> None:
    kept = PatchCache(root / "cache", DEFAULT)
    for number in range(CACHED):
        kept(bundled_clip().read_bytes() + struct.pack(">I4sI", 12, b"free", number))  # another content


# What is read: the folders that it lies in, and the reading.
CASES: dict[str, tuple[list[str], Callable[[Path], None]]] = {
    "features: rows of parquet": (["features"], features),
    "centers": (["many centers"], centers),
    "features and centers, used: assign": (["features", "centers"], assigned),
    "labels": (["labels"], labels),
    "patch shards: rows": (["patches"], patches),
    "patch shards, used: a training's batches": (["patches"], lambda root: patches(root, used=True)),
    "encoded folder: items": (["encoded"], encoded),
    "latents: rows": (["latents"], latents),
    "patch cache: clips": (["cache"], cache),
}


def drop_pages(folder: Path) -> None:
    """Have the kernel read the files of a folder from the disk when they are read next."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(read: Callable[[Path], None], root: Path) -> float:
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # progress
        read(root)
    return time.perf_counter() - began


def bare(folder: Path) -> None:
    buffer = bytearray(digests.BLOCK)
    for path in folder.iterdir():
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def disk_speed(folder: Path) -> str:
    """How fast a folder is read, and that it comes from the disk. Exits where pages are not dropped."""
    size, took = sum(path.stat().st_size for path in folder.iterdir()), []
    for _ in range(5):
        drop_pages(folder)
        took.append((seconds(bare, folder), seconds(bare, folder)))
    disk, memory = (size / statistics.median(times) / 1e9 for times in zip(*took, strict=True))
    if disk > memory / 1.5:
        sys.exit(f"{folder}: {disk:.1f} GB/s though its pages were dropped, {memory:.1f} before: no disk?")
    return f"bare reading: {disk:.1f} GB/s from the disk, {memory:.1f} out of the page cache"


def measure(
    read: Callable[[Path], None], roots: dict[str, Path], folders: list[str], rounds: int
) -> list[str]:
    """The cells of a case: of each way to read, the milliseconds without digests, and what they add.

    Args:
        read: what is measured.
        roots: `plain` and `compared`, without and with digests.
        folders: that are read there.
        rounds: of both.
    """
    took: dict[str, dict[str, list[float]]] = {of: {"disk": [], "cache": [], "again": []} for of in roots}
    order = random.Random(0)
    for _ in range(rounds):
        for of, root in order.sample(list(roots.items()), len(roots)):  # a disk has its rhythms
            for folder in folders:
                drop_pages(root / folder)
                bare(root / folder)
            for place in ("cache", "again", "disk"):
                if place == "disk":
                    for folder in folders:
                        drop_pages(root / folder)
                if place != "again":
                    digests.forget()
                took[of][place].append(seconds(read, root))
    cells = []
    for place in ("disk", "cache", "again"):
        plain, compared = (np.array(took[of][place]) for of in ("plain", "compared"))
        usual, longer = float(np.median(plain)), compared - plain
        error = 0.93 * float(np.subtract(*np.quantile(longer, (0.75, 0.25)))) / rounds**0.5  # of a median
        cells += [f"{usual * 1e3:.1f}", f"{np.median(longer) / usual:+.1%} ± {error / usual:.1%}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--folder", help="on the disk that is measured; default: where temporary files lie")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        roots = {of: Path(name, of) for of in ("compared", "plain")}
        made = roots["compared"]
        made.mkdir()
        make_clusters(made)
        make_patches(made / "patches")
        make_tensors(made)
        shutil.copytree(made, roots["plain"], copy_function=os.link)  # the same places of the disk
        take_digests_out(roots["plain"])
        print(disk_speed(roots["plain"] / "many centers"), f"; load {os.getloadavg()[0]:.1f}", sep="")
        print("| what is read | MB | disk, ms | comparing | memory, ms | comparing | again, ms | comparing |")
        print("|---" * 8 + "|")
        for case, (folders, read) in CASES.items():
            if args.only in case:
                for root in roots.values():
                    read(root)  # what is imported and allocated once
                cells = measure(read, roots, folders, args.rounds)
                files = [file for folder in folders for file in (roots["plain"] / folder).iterdir()]
                size = sum(file.stat().st_size for file in files) / 1e6
                print("|", " | ".join([case, f"{size:.0f}", *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
