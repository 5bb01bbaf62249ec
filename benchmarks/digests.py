"""What it costs to compare finished files with their digests when they are read first.

    make bench-digests
    python benchmarks/digests.py --rounds 5

A round reads everything as a process does that has read nothing yet, and once more. Of the processor time of
one thread, out of the page cache, which is where comparing costs most, the part is told that is spent in it:
opening the digests, reading the blocks, XXH3. Medians over the rounds. "Used" adds what the product does with
what it read: labels are assigned, a training makes batches of the patches.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from onevision_hf import FeatureFolder, bundled_clip
from onevision_hf.clustering.assign import LabelShards, assign_labels
from onevision_hf.clustering.features import FeatureShards, extract_features
from onevision_hf.clustering.kmeans import CENTERS, CenterFile, find_centers
from onevision_hf.data import latents as latent_shards
from onevision_hf.data import tar_shards, tensor_files
from onevision_hf.data.items import Item, Source
from onevision_hf.data.latents import LatentShards
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.data.patch_extraction import DEFAULT
from onevision_hf.data.patch_shards import STAGE, PatchExample, PatchShards, ShardWriter
from onevision_hf.eval import feature_folder
from onevision_hf.eval.feature_folder import INDEX
from onevision_hf.jobs import digests
from onevision_hf.jobs.run_folder import FinishedRun, RunFolder, canonical_json
from onevision_hf.training.loader import collate
from onevision_hf.training.patch_transform import PatchTransform
from onevision_hf.training.tasks.cluster_config import HeadConfig

DIM, ROWS, CLUSTERS = 768, 8192, 100
CLIPS, PATCHES, SIDE = 48, 2048, 14


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


class Comparing:
    """How long the functions took that compare with digests; those that call one another count once."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, False
        ticks = [time.process_time() for _ in range(1001)]
        self._tick = (ticks[-1] - ticks[0]) / 1000  # of the clock itself
        for owner, name in (
            (digests.FolderDigests, "__init__"),
            (FinishedRun, "file"),
            (latent_shards, "checked_rows"),
            (feature_folder, "checked_rows"),
            (tar_shards, "block_digest"),
            (tensor_files, "_digest"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            if self._inside:
                return function(*args, **named)
            self._inside, began = True, time.process_time()
            try:
                return function(*args, **named)
            finally:
                self.seconds += time.process_time() - began - self._tick
                self._inside = False

        return call

    def share(self, read: Callable[[Path], None], root: Path) -> tuple[float, float]:
        """Seconds of all that is not comparing, and comparing as a share of them."""
        self.seconds, began = 0.0, time.process_time()
        read(root)
        rest = time.process_time() - began - self.seconds
        return rest, self.seconds / rest


def forget() -> None:
    digests._SEEN.clear()
    digests._note_of_finished.cache_clear()
    tar_shards._read_index.cache_clear()


def features(root: Path) -> None:
    shards = FeatureShards(root / "features")
    for shard in range(len(shards)):
        shards.matrix(shard)


def centers(root: Path) -> None:
    for _ in CenterFile(root / "many centers").blocks(4096):
        pass


def assigned(root: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
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
    for _ in range(8):
        kept(str(bundled_clip()))


CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "features: rows of parquet": ("features", features),
    "centers": ("many centers", centers),
    "features and centers, used: assign": ("features", assigned),
    "labels": ("labels", labels),
    "patch shards: rows": ("patches", patches),
    "patch shards, used: a training's batches": ("patches", lambda root: patches(root, used=True)),
    "encoded folder: items": ("encoded", encoded),
    "latents: rows": ("latents", latents),
    "patch cache: a clip": ("cache", cache),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a case's name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_clusters(root)
        make_patches(root / "patches")
        make_tensors(root)
        comparing = Comparing()
        print("| what is read | MB | reading, s | comparing, first | again in the same process |")
        print("|---|---|---|---|---|")
        for case, (folder, read) in CASES.items():
            if args.only not in case:
                continue
            read(root)  # what is imported and allocated once
            rounds = []
            for _ in range(args.rounds):
                forget()
                rounds.append((comparing.share(read, root), comparing.share(read, root)))
            took = statistics.median(first[0] for first, _ in rounds)
            first, again = (statistics.median(of[place][1] for of in rounds) for place in (0, 1))
            size = sum(file.stat().st_size for file in (root / folder).iterdir()) / 1e6
            print(f"| {case} | {size:.0f} | {took:.3f} | {first:.1%} | {again:.1%} |", flush=True)


if __name__ == "__main__":
    main()
