"""What the processes of the sharded tests run, and the cases that they run.

Three gloo processes start once; groups of the first one, two and three of them stand for the numbers of
processes.
"""

import itertools

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from onevision_hf.objectives import ClusterDiscriminationLoss, draw_together
from onevision_hf.objectives.collectives import size_of

SIZES = (1, 2, 3)
INPUT, DIM = 6, 5
# Rows of the batch on each process, by number of processes: uneven, and none on some.
SPLITS = {1: (11,), 2: (7, 4), 3: (5, 0, 6)}
# 37 classes are 13, 13 and 11 rows; 4 are 2, 2 and 0.
CASES = [
    {
        "num_classes": classes,
        "form": form,
        "sampling": sampling,
        "sample_rate": rate,
        "filter_threshold": filtered,
    }
    for classes, form, sampling, (rate, filtered) in itertools.product(
        (37, 4), ("softmax", "sigmoid"), ("shared", "per_label"), ((1.0, 0.0), (0.3, 0.4))
    )
]
FIXED = {"scale": 8.0, "margin": 0.3, "labels_per_sample": 3}


def case_batch(case):
    """Inputs, backbone, centers and labels; some samples have fewer labels, repeated ones, or none."""
    generator = torch.Generator().manual_seed(case["num_classes"])
    inputs = torch.randn(11, INPUT, generator=generator, dtype=torch.float64)
    weight = torch.randn(DIM, INPUT, generator=generator, dtype=torch.float64)
    centers = torch.randn(case["num_classes"], DIM, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, case["num_classes"], (11, 3), generator=generator)
    labels[2, 1:] = -100
    labels[6] = -100
    labels[9, 2] = labels[9, 0]
    return inputs, weight, centers, labels


def build(case, weight, centers, group, **options):
    loss = ClusterDiscriminationLoss(
        case["num_classes"], DIM, **FIXED, **{k: v for k, v in case.items() if k != "num_classes"}, **options,
        process_group=group,
    ).double()  # fmt: skip
    loss.set_centers(centers)
    backbone = torch.nn.Linear(INPUT, DIM, bias=False).double()
    backbone.weight.data.copy_(weight)
    if size_of(loss.process_group) > 1:
        backbone = DistributedDataParallel(backbone, process_group=group)
    return backbone, loss


def own_rows(size, rank):
    start = sum(SPLITS[size][:rank])
    return slice(start, start + SPLITS[size][rank])


def run_case(case, size, rank, group, **options):
    inputs, weight, centers, labels = case_batch(case)
    backbone, loss = build(case, weight, centers, group, **options)
    rows = own_rows(size, rank)
    value = loss(backbone(inputs[rows]), labels[rows], step=3)
    value.backward()
    return {
        "loss": value.detach(),
        "backbone": next(backbone.parameters()).grad,
        "centers": loss.centers.grad.to_dense(),
        "metrics": loss.reduce_metrics(),
        "grad_norm": loss.grad_norm(),
    }


def train(size, rank, group):
    """Five steps with more label columns than are used: both draws go on by themselves."""
    case = {"num_classes": 37, "sample_rate": 0.3, "filter_threshold": 0.4, "seed": 11}
    inputs, weight, centers, _ = case_batch(case)
    labels = torch.randint(0, 37, (11, 7), generator=torch.Generator().manual_seed(5))
    backbone, loss = build(case, weight, centers, group)
    optimizer = torch.optim.SGD([*backbone.parameters(), loss.centers], lr=0.05)
    rows, trace = own_rows(size, rank), []
    for _ in range(5):
        optimizer.zero_grad()
        value = loss(backbone(inputs[rows]), labels[rows])
        value.backward()
        optimizer.step()
        trace.append(value.item())
    return {
        "trace": trace,
        "backbone": next(backbone.parameters()).detach(),
        "centers": loss.centers.detach(),
    }


def out_of_range(size, rank, group):
    loss = ClusterDiscriminationLoss(37, DIM, process_group=group)
    labels = torch.zeros(2, 3, dtype=torch.int64)
    labels[1, 1] = 37 if rank == size - 1 else 0  # one process only has it
    try:
        loss(torch.randn(2, DIM), labels)
    except ValueError as error:
        return str(error)
    return None


def heads(size, rank, group):
    """Two losses that draw together give what each gives alone."""
    inputs, weight, centers, labels = case_batch(CASES[1])
    rows = own_rows(size, rank)
    built = {name: build(CASES[i], weight, centers, group) for name, i in (("image", 1), ("video", 3))}
    losses = {name: loss for name, (_, loss) in built.items()}
    draws = draw_together(losses, {name: labels[rows] for name in losses}, step=3)
    return {name: loss(built[name][0](inputs[rows]), draws[name]).detach() for name, loss in losses.items()}


def centers_file(size, rank, group, folder):
    """Read the file that one process wrote, write it again, and say which rows are here."""
    loss = ClusterDiscriminationLoss(37, DIM, process_group=group)
    initial = loss.centers.detach().clone()
    loss.load_centers(folder / "one.safetensors")
    loss.save_centers(folder / f"by{size}.safetensors")
    error = None
    try:
        loss.save_centers(folder / "absent" / "centers.safetensors")
    except OSError as problem:
        error = str(problem)
    return {"initial": initial, "loaded": loss.centers.detach(), "range": loss.class_range, "error": error}


def main(folder):
    """All cases on groups of the first one, two and three of three processes."""
    results, rank = {}, dist.get_rank()
    for size in SIZES:
        group = dist.new_group(list(range(size)))
        if rank >= size:
            continue
        group = None if size == 3 else group  # None is the default group, which has three
        for i, case in enumerate(CASES):
            results[size, "case", i] = run_case(case, size, rank, group)
            results[size, "sparse", i] = run_case(case, size, rank, group, sparse_grad=True)
        for work in (train, out_of_range, heads):
            results[size, work.__name__] = work(size, rank, group)
        results[size, "file"] = centers_file(size, rank, group, folder)
    return results
