"""The cluster objective: forward + backward with the centers' gradient, time and peak memory.

    make bench-cluster            # about three minutes on two cores
    python benchmarks/cluster.py --repeats 3

Comparisons are interleaved and given as ratios of medians. Peaks are of a process of its own each, above what
it held before the loss was built: centers, gradient, sampled copies, logits and whatever is temporary (no
optimizer).
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from torch import Tensor
from torch.nn import functional as F

from onevision_hf.objectives import ClusterDiscriminationLoss, cluster_memory

SCALE, MARGIN, FILTER = 64.0, 0.3, 0.75
MIB = 2**20


class DenseLoss(torch.nn.Module):
    """The same loss for one label column, every class in it, as autograd and `cross_entropy` compute it."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.centers = torch.nn.Parameter(torch.randn(num_classes, dim) * 0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.normalize(embeddings) @ F.normalize(self.centers).T
        target = torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, labels, True)
        logits = torch.where(target, cosine - MARGIN, cosine.masked_fill((cosine > FILTER) & ~target, 0))
        return F.cross_entropy(SCALE * logits, labels[:, 0])


def build(
    kind: str, classes: int, dim: int, rate: float, columns: int, sparse_grad: bool = False
) -> torch.nn.Module:
    if kind == "dense":
        return DenseLoss(classes, dim)
    return ClusterDiscriminationLoss(
        classes, dim, sampling=kind, sample_rate=rate, labels_per_sample=columns, sparse_grad=sparse_grad
    )


def batch(classes: int, dim: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(rows, dim, generator=generator).requires_grad_()
    return embeddings, torch.randint(0, classes, (rows, columns), generator=generator)


def step(loss: torch.nn.Module, embeddings: Tensor, labels: Tensor) -> float:
    """Seconds of one forward and backward pass, from gradients set to None."""
    embeddings.grad = loss.centers.grad = None
    start = time.perf_counter()
    loss(embeddings, labels).backward()
    return time.perf_counter() - start


def medians(cases: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Seconds by name; the cases take turns, so that what else the machine does hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, run in cases.items():
            taken = run()
            if turn:  # the first one warms up
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peak(pipe: "multiprocessing.connection.Connection", case: tuple, rows: int) -> None:
    def resident(field: str) -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

    before = resident("VmRSS")
    loss = build(*case)
    _, classes, dim, _, columns = case[:5]
    embeddings, labels = batch(classes, dim, rows, columns)
    for _ in range(2):
        step(loss, embeddings, labels)
    pipe.send(resident("VmHWM") - before)


def peak(case: tuple, rows: int) -> int:
    """Bytes that a process of its own needs for `case` at most, above what it held before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onevision_hf.objectives"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_peak, args=(theirs, case, rows))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def samplings(repeats: int) -> None:
    classes, dim, rows, columns, rate = 100_000, 512, 256, 8, 0.1
    data = batch(classes, dim, rows, columns)
    losses = {kind: build(kind, classes, dim, rate, columns) for kind in ("shared", "per_label")}
    seconds = medians({kind: lambda loss=loss: step(loss, *data) for kind, loss in losses.items()}, repeats)
    print(f"\n{classes:,} classes, D = {dim}, B = {rows}, {columns} columns, rate {rate}")
    print("| sampling | ms | peak MiB |\n|---|---|---|")
    for kind in losses:
        memory = peak((kind, classes, dim, rate, columns), rows)
        print(f"| `{kind}` | {seconds[kind] * 1e3:.0f} | {memory / MIB:.0f} |")
    print(f"`shared` is {seconds['per_label'] / seconds['shared']:.1f} x faster than `per_label`")


def against_dense(repeats: int) -> None:
    classes, dim, rows = 100_000, 512, 256
    data = batch(classes, dim, rows, 1)
    losses = {kind: build(kind, classes, dim, 1.0, 1) for kind in ("shared", "dense")}
    losses["dense"].load_state_dict(losses["shared"].state_dict())
    values = [loss(*data).item() for loss in losses.values()]
    assert abs(values[0] - values[1]) < 1e-4 * values[1], f"not the same loss: {values}"
    seconds = medians({kind: lambda loss=loss: step(loss, *data) for kind, loss in losses.items()}, repeats)
    memory = {kind: peak((kind, classes, dim, 1.0, 1), rows) for kind in losses}
    print(f"\n{classes:,} classes, D = {dim}, B = {rows}, 1 column, rate 1 (loss {values[0]:.4f}, the same)")
    print("| | ms | peak MiB |\n|---|---|---|")
    for kind, name in (("shared", "this loss"), ("dense", "dense `cross_entropy`")):
        print(f"| {name} | {seconds[kind] * 1e3:.0f} | {memory[kind] / MIB:.0f} |")
    print(
        f"this loss takes {seconds['shared'] / seconds['dense']:.2f} x the time and "
        f"{memory['shared'] / memory['dense']:.2f} x the memory"
    )


def growth(repeats: int) -> tuple[float, float, float]:
    """Print times and peaks over the number of classes; return the fitted seconds (fixed, per flop, per
    byte)."""
    dim, columns, rate = 256, 8, 0.1
    print(f"\nGrowth, `shared`, D = {dim}, {columns} columns, rate {rate}")
    print("| classes | B | ms | peak MiB | plan MiB |\n|---|---|---|---|---|")
    parts, seconds = [], []
    for classes in (10_000, 100_000, 1_000_000):
        loss = build("shared", classes, dim, rate, columns)
        for rows in (64, 256):
            data = batch(classes, dim, rows, columns)
            taken = medians({"step": lambda loss=loss, data=data: step(loss, *data)}, repeats)["step"]
            plan = cluster_memory(classes, dim, rows, sample_rate=rate, labels_per_sample=columns)
            memory = peak(("shared", classes, dim, rate, columns), rows)
            planned = plan["centers"] + plan["gradient"] + plan["sampled"] + plan["logits"]
            print(
                f"| {classes:,} | {rows} | {taken * 1e3:.1f} | {memory / MIB:.0f} | {planned / MIB:.0f} |",
                flush=True,
            )
            sampled = plan["sampled"] / (4 * dim)
            parts.append([1.0, 6 * rows * sampled * dim, float(plan["gradient"])])
            seconds.append(taken)
        del loss
    # Each row weighs the same: 1 ms of 5 is as much a miss as 100 ms of 500.
    table, times = torch.tensor(parts, dtype=torch.float64), torch.tensor(seconds, dtype=torch.float64)
    ones = torch.ones(len(times), 1, dtype=torch.float64)
    fitted = torch.linalg.lstsq(table / times[:, None], ones).solution.clamp(min=0)
    fixed, per_flop, per_byte = fitted[:, 0].tolist()
    worst = ((table @ fitted)[:, 0] / times - 1).abs().max().item()
    print(
        f"seconds = {fixed:.4f} + 6 N S D / {1e-9 / max(per_flop, 1e-30):.0f} Gflop/s + 4 c D / "
        f"{1e-9 / max(per_byte, 1e-30):.1f} GB/s, at most {worst:.0%} off "
        "(S sampled of the c rows of a process)"
    )
    return fixed, per_flop, per_byte


def projection(fixed: float, per_flop: float, per_byte: float) -> None:
    """2,000,000 classes from the measured parts: nothing here is run."""
    classes, dim, rate, columns = 2_000_000, 1024, 0.1, 8
    print(f"\nOn paper: {classes:,} classes, D = {dim}, rate {rate}, {columns} columns; MiB a process")
    print(
        "| processes | global batch | centers | gradient | moments | sampled | logits | sum | row-sparse sum "
        "| sent MiB | Tflop | s on these cores |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for processes, rows in ((8, 1024), (128, 5120)):
        plan, sparse = (
            cluster_memory(classes, dim, rows, processes=processes, sample_rate=rate, sparse_grad=sparse)
            for sparse in (False, True)
        )
        flops = 6 * rows * dim * plan["sampled"] / (4 * dim)
        # Embeddings gathered, their gradients summed (a ring sends that twice), a byte a class, and targets.
        share = (processes - 1) / processes
        sent = share * (4 * rows * dim + 2 * 4 * rows * dim + 2 * classes + rows * columns * (8 + 2 * 4))
        seconds = fixed + flops * per_flop + plan["gradient"] * per_byte
        columns_of = " | ".join(f"{plan[name] / MIB:.0f}" for name in plan)
        print(
            f"| {processes} | {rows} | {columns_of} | {sum(plan.values()) / MIB:.0f} "
            f"| {sum(sparse.values()) / MIB:.0f} | {sent / MIB:.0f} | {flops / 1e12:.2f} | {seconds:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of each case")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    samplings(args.repeats)
    against_dense(args.repeats)
    projection(*growth(args.repeats))


if __name__ == "__main__":
    main()
