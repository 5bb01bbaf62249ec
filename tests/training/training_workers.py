"""What the processes of the training tests run: tiny trainings on random tensors, and where they are
stopped.
"""

import os
import resource
import shutil
from pathlib import Path

import processes
import torch

STEPS, STOP = 20, 9
HEADS = {
    "image": {
        "batch_size": 8, "classes": 37, "processor": {"size": 28}, "max_labels": 4, "labels_per_sample": 2,
    },
    "video": {
        "kind": "video", "batch_size": 8, "classes": 21,
        "processor": {"size": 28, "do_center_crop": True, "num_frames": 4, "num_patches": 8},
        "max_labels": 2, "labels_per_sample": 2,
    },
}  # fmt: skip
BASE = {
    "max_steps": STEPS, "dataloader_num_workers": 0, "logging_steps": 1, "save_steps": 100,
    "report_to": [], "seed": 3, "device": "cpu",
    "model": {"size": "tiny", "overrides": {"num_hidden_layers": 1}},
    "cluster": {"heads": HEADS, "sample_rate": 0.5},
    "optim": {"learning_rate": 1e-3, "warmup_steps": 3, "lr_scheduler_type": "cosine", "max_grad_norm": 1.0},
}  # fmt: skip


def merged(base, changes):
    return {
        key: merged(base[key], changes[key])
        if isinstance(base.get(key), dict) and isinstance(changes.get(key), dict)
        else changes.get(key, base.get(key))
        for key in [*base, *(key for key in changes if key not in base)]
    }  # fmt: skip


def make_config(out, **changes):
    from onevision_hf.training.config import from_dict

    return from_dict(merged(BASE, {"out": str(out), **changes}))


def make_rows(config, rows=90):
    from onevision_hf.training.dry_run.dummy_data import DummyExamples

    return {
        name: DummyExamples(head, head.classes, 14, rows).transformed()
        for name, head in config.cluster.heads.items()
    }


def train(out, stop_at=None, **changes):
    """Train (on), and give the losses of `log.jsonl` and this process's part of everything that is saved."""
    from onevision_hf.training.loop import Trainer
    from onevision_hf.training.report import read_lines

    config = make_config(out, **changes)
    trainer = Trainer(config, make_rows(config), max_steps=stop_at)
    status = trainer.fit()
    tensors = {}
    for name, tensor in trainer.tensors().items():
        local = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        tensors[name] = local.clone()
    return {
        "status": status,
        "size": trainer.size,
        "log": read_lines(Path(out) / "log.jsonl"),
        "validation": read_lines(Path(out) / "validation.jsonl"),
        "tensors": tensors,
    }


VALIDATED = {"validation": {"every": 10, "held_out": 0.3, "items": 25, "neighbours": 3}}


def everything(folder, size):
    """All that one number of processes has to show."""
    return {
        "straight": train(folder / f"straight{size}", optim={"ema": 0.9}, save_steps=STOP, **VALIDATED),
        "sparse": train(folder / f"sparse{size}", cluster={"sparse_grad": True}, max_steps=6),
    }


def wrapped(folder, size):
    """Three steps under DDP and under FSDP2, and with bfloat16 under both; a gradient step in
    micro-batches.
    """
    few = {"max_steps": 3, "validation": {"every": 3, "held_out": 0.3, "items": 25}}
    low = {"optim": {"precision": "bfloat16"}}
    results = {
        "ddp": train(folder / "ddp", **few),
        "fsdp": train(
            folder / "fsdp", **merged(few, {"optim": {"parallel": "fsdp", "gradient_checkpointing": True}})
        ),
        "ddp-low": train(folder / "ddp-low", **merged(few, low)),
        "fsdp-low": train(folder / "fsdp-low", **merged(few, merged(low, {"optim": {"parallel": "fsdp"}}))),
    }
    train(folder / "fsdp-resumed", 2, **merged(few, {"optim": {"parallel": "fsdp"}}))
    results["fsdp-resumed-ddp"] = train(folder / "fsdp-resumed", **few)
    means = {
        "cluster": {"sample_rate": 1.0, "heads": {name: {"max_labels": 2} for name in HEADS}},
        "max_steps": 3,
    }
    for parts in (1, 4):
        results[f"in {parts}"] = train(
            folder / f"in{parts}", **merged(means, {"optim": {"gradient_accumulation_steps": parts}})
        )
    return results


def full(folder, size):
    """A disk that is full for the last of two processes only, then a checkpoint that lacks what it wrote."""
    from onevision_hf.training import checkpoint

    out, rank, said = folder / "full", int(os.environ["RANK"]), {}
    train(out, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        train(out, 4)
    except OSError as error:
        said["full"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    torch.distributed.barrier()  # the first process clears away what was begun
    said["left"] = sorted(path.name for path in (out / "checkpoints").iterdir())
    said["on"] = train(out, 4)["status"]
    torch.distributed.barrier()
    if rank == 0:
        (checkpoint.latest_checkpoint(out / "checkpoints") / f"__{size - 1}_0.distcp").unlink()
    torch.distributed.barrier()
    try:
        train(out, 5)
    except checkpoint.CheckpointError as error:
        said["missing"] = str(error)
    return said


def resumed(folder, size, start):
    """Go on from step 9 of the run on `start` processes, as if it had been killed just after it was saved."""
    out = folder / f"from{start}on{size}"
    if int(os.environ.get("RANK", 0)) == 0:
        shutil.copytree(folder / f"straight{start}", out)
        (out / "checkpoints" / "latest").write_text(f"step-{STOP:08d}")
    if size > 1:
        torch.distributed.barrier()
    return train(out, optim={"ema": 0.9}, **VALIDATED)


def only_train(out, changes):
    """A training that somebody may kill; its exit status is the training's."""
    from onevision_hf.training.loop import Trainer, close

    config = make_config(out, **changes)
    status = Trainer(config, make_rows(config)).fit()
    close()
    os._exit(status)


def several(jobs, folder, size):
    """The results of some (function, *arguments), by (its name, *arguments)."""
    return {(do.__name__, *arguments): do(folder, size, *arguments) for do, *arguments in jobs}


def run(size, folder, jobs):
    """{(name of a function, *its arguments): [what it returned in each process]}; started once for all."""
    ranks = processes.run(several, jobs, folder, size, size=size)
    return {key: [rank[key] for rank in ranks] for key in ranks[0]}
