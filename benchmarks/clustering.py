"""What clustering costs: time and memory of k-means and assignment as items grow, against faiss, and reading
rows.

    make bench-clustering
    python benchmarks/clustering.py --items 10000 100000 --clusters 1000

Rows are synthetic, 256 values each, around 2000 directions of 40 kinds. Every size runs in a process of its
own, whose peak memory is what it has over a process that has only imported the package. Ratios are of times
in one run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize

from onevision_hf.clustering.assign import assign_labels
from onevision_hf.clustering.features import extract_features
from onevision_hf.clustering.kmeans import CenterFile, find_centers
from onevision_hf.clustering.spherical import State, lloyd, nearest, random_start
from onevision_hf.data.items import Item, Source
from onevision_hf.data.media_shards import STAGE, PackedExample, PackedShards, write_shard
from onevision_hf.data.tar_shards import LAYOUT, shard_names
from onevision_hf.jobs.run_folder import RunFolder

DIM = 256


class Synthetic:
    """An extractor that makes row `n` from `n`, so that features need no memory of their own."""

    identity = {"teacher": "synthetic"}

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        kinds = torch.randn(40, 1, DIM, generator=generator)
        self.directions = (kinds + 0.7 * torch.randn(40, 50, DIM, generator=generator)).flatten(0, 1)

    def prepare(self, content: str | bytes, kind: str) -> int:
        return int(content)

    def encode(self, prepared: list[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(prepared[0])
        noise = torch.randn(len(prepared), DIM, generator=generator)
        chosen = torch.randint(len(self.directions), (len(prepared),), generator=generator)
        return normalize(self.directions[chosen] + 0.5 * noise, dim=1)


def make_features(folder: Path, items: int) -> Path:
    listing = [Item(f"{n:09d}", "image", "", n, 0, n) for n in range(items)]
    source = Source(listing, lambda item: str(item.place))
    extract_features(source, folder, Synthetic(), "image", batch_size=512, workers=1)
    return folder


def in_own_process(what: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout)


def measure(what: str, arguments: list[str]) -> None:
    """In a process of its own: do one stage, print seconds and peak memory (MB) over that of the bare
    imports."""
    before = peak_megabytes()
    start = time.perf_counter()
    if what == "kmeans":
        features, out, clusters, iterations, cells = arguments
        find_centers(features, out, int(clusters), iterations=int(iterations), cells=int(cells))
    elif what == "assign":
        features, out, centers = arguments
        assign_labels(features, out, centers)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "megabytes": peak_megabytes() - before}))


def peak_megabytes() -> float:
    """Of this process since it began; `getrusage` would start from its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def growth(root: Path, sizes: list[int], clusters: int, iterations: int) -> None:
    print(
        f"\nGrowth, {clusters} clusters, {DIM} values, {iterations} iterations, "
        f"{torch.get_num_threads()} threads"
    )
    print("| items | one level | memory | two levels | memory | objective | assign (10) | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for items in sizes:
        features = make_features(root / f"features-{items}", items)
        one, two = root / f"one-{items}", root / f"two-{items}"
        cells = round(clusters**0.5)
        flat = in_own_process("kmeans", str(features), str(one), str(clusters), str(iterations), "0")
        nested = in_own_process("kmeans", str(features), str(two), str(clusters), str(iterations), str(cells))
        labels = in_own_process("assign", str(features), str(root / f"labels-{items}"), str(one))
        ratio = objective_on(items, two) / objective_on(items, one)
        print(
            f"| {items:,} | {flat['seconds']:.1f} s | {flat['megabytes']:.0f} MB | {nested['seconds']:.1f} s "
            f"| {nested['megabytes']:.0f} MB | {ratio:.4f} of one level | {labels['seconds']:.1f} s "
            f"| {labels['megabytes']:.0f} MB |",
            flush=True,
        )


def objective_on(items: int, centers: Path) -> float:
    """Mean cosine of up to 10,000 of the rows to their nearest center."""
    starts = range(0, min(items, 10_000) - 511, 512)
    rows = torch.cat([Synthetic().encode(list(range(n, n + 512))) for n in starts])
    return float(nearest(rows, CenterFile(centers).read())[0].mean())


def against_faiss(rows_count: int, clusters: int, iterations: int, rounds: int) -> None:
    try:
        import faiss
    except ImportError:
        print("\nfaiss is not installed (pip install faiss-cpu): no comparison")
        return
    faiss.omp_set_num_threads(torch.get_num_threads())
    extractor = Synthetic()
    rows = torch.cat([extractor.encode(list(range(n, n + 512))) for n in range(0, rows_count, 512)])
    start = random_start(rows, clusters)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):  # interleaved, so that a busy machine slows both
        seconds, state = timed(lambda: lloyd(rows, State(start), iterations))
        ours.append(seconds)
        kmeans = faiss.Kmeans(DIM, clusters, niter=iterations, spherical=True, max_points_per_centroid=10**9,
                              min_points_per_centroid=1)  # fmt: skip
        seconds, _ = timed(lambda kmeans=kmeans: kmeans.train(rows.numpy(), init_centroids=start.numpy()))
        theirs.append(seconds)
    objective = float(nearest(rows, state.centers)[0].mean())
    faiss_objective = float(nearest(rows, normalize(torch.from_numpy(kmeans.centroids), dim=1))[0].mean())
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"\nAgainst faiss {faiss.__version__}: {len(rows):,} rows, {clusters} clusters, "
        f"{iterations} iterations"
    )
    print("| | torch | faiss | torch / faiss |\n|---|---|---|---|")
    print(f"| seconds (median of {rounds}) | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} "
          f"| {ratio:.2f} |")  # fmt: skip
    print(f"| mean cosine | {objective:.5f} | {faiss_objective:.5f} | {objective / faiss_objective:.5f} |")


def timed(do: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = do()
    return time.perf_counter() - start, result


def reading(root: Path, count: int = 2048, size: int = 60_000) -> None:
    """Rows read at random from packed tars and from a parquet of them, against as many plain files."""
    rng = np.random.default_rng(0)
    media = [rng.bytes(size) for _ in range(64)]
    labels, scores = np.arange(10, dtype=np.int32), np.ones(10, np.float32)
    rows = [
        PackedExample(f"{n:06d}", "image", "image", "jpg", media[n % 64], labels, scores, 224, 224, 1, 0.0)
        for n in range(count)
    ]
    for row in rows[:64]:
        (root / f"{row.key}.jpg").write_bytes(row.media)
    order = rng.permutation(count)
    rates = {
        "plain files": count / timed(lambda: [(root / f"{n % 64:06d}.jpg").read_bytes() for n in order])[0]
    }
    folder = root / "tar"
    with RunFolder(folder, stage=STAGE, settings={"head": "image", "layout": LAYOUT}, sources="") as run:
        for shard in range(count // 1024):
            part = rows[shard * 1024 : (shard + 1) * 1024]
            write_shard(part, [folder / name for name in shard_names("image", shard)], shard * 1024)
        run.finish({"classes": 10, "rows": [1024] * (count // 1024)})
    packed = PackedShards(folder)
    rates["tar"] = count / timed(lambda: [packed[int(n)] for n in order])[0]
    table = pa.Table.from_pylist([vars(row) | {"selection": None} for row in rows])
    pq.write_table(table, root / "rows.parquet", row_group_size=8, compression="none", use_dictionary=False)
    file = pq.ParquetFile(root / "rows.parquet")
    rates["parquet"] = (
        count / timed(lambda: [file.read_row_group(n // 8).slice(n % 8, 1).to_pylist() for n in order])[0]
    )
    print(f"\nRows of {size // 1000} kB read in random order, one thread, from the page cache")
    print("| | rows/s | of plain files |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['plain files']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], args.measure[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        growth(Path(folder), args.items, args.clusters, args.iterations)
        reading(Path(folder))
    against_faiss(50_000, args.clusters, args.iterations, args.rounds)


if __name__ == "__main__":
    main()
