"""What `benchmarks/gpu.py` measures: each part is a function from the sizes to the rows of a table.

MFU is the share of the machine's own square products: the floating-point operations of a model's matrix
products, by time, over those of bfloat16 products of two square matrices, which take turns with it.
"""

import argparse
import contextlib
import functools
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cluster as cluster_benchmark
import encoder
import multimodal as multimodal_benchmark
import scale
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from onevision_hf import OneVisionConfig
from onevision_hf.data.patch_extraction import extract_patches
from onevision_hf.modeling.patch_inputs import trusted_values
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.objectives import RowSparseAdamW
from onevision_hf.training.config import load_config
from onevision_hf.training.dry_run.plan import make_plan, small_run
from onevision_hf.training.loader import MicroBatches
from onevision_hf.training.loop import Trainer
from onevision_hf.training.mixture import RankSlice

Row = dict[str, Any]
BACKWARD = 3  # forward and backward passes have three times the products of a forward pass


@dataclass(frozen=True)
class Sizes:
    """Of everything that is measured, so that a processor can go the same ways in seconds."""

    device: str = "cuda"
    tiny: bool = False  # models, too
    square: int = 8192  # side of the matrices that MFU is against
    repeats: int = 5
    patches: tuple[int, ...] = (2048, 4096)  # of a clip
    batch_patches: int = 32_768  # of a batch, whatever the clip
    lengths: tuple[int, ...] = tuple(encoder.LENGTHS)  # of the clips that are packed and padded
    classes: int = 1_000_000
    clips: int = 64  # in the shards that the loop reads
    batch_clips: int = 16  # of its steps, and of the step that the cluster loss is a share of
    steps: int = 60
    frames: int = 64  # sampled of a clip, for the loop and for the multimodal model
    side: int = 224  # of the frames that the loop's shards are cut from
    pairs: int = 64  # pictures with captions of a stage 1 step

    def of_model(self, size: str) -> str:
        return "tiny" if self.tiny else size


TINY = Sizes(
    device="cpu", tiny=True, square=64, repeats=1, patches=(32, 64), batch_patches=64, lengths=(8, 3, 5),
    classes=2_000, clips=2, batch_clips=2, steps=3, frames=8, side=56, pairs=2,
)  # fmt: skip


def timed(sizes: Sizes, *runs: Callable[[], object]) -> list[list[float]]:
    """Seconds of runs that take turns."""
    return encoder.interleaved(*runs, pairs=sizes.repeats, device=sizes.device)


def squares(sizes: Sizes, side: int) -> tuple[Callable[[], object], float]:
    """Eight bfloat16 products of square matrices, and their floating-point operations."""
    product = encoder.matrix_peak(sizes.device, torch.bfloat16, side)
    return lambda: [product() for _ in range(8)], 8 * 2.0 * side**3


def speed(sizes: Sizes, run: Callable[[], object], work: float) -> Row:
    """Time, TFLOP/s and MFU of `run`, which is `work` floating-point operations, and its peak of memory."""
    product, operations = squares(sizes, sizes.square)
    ours, theirs = timed(sizes, run, product)
    del product  # and its matrices, before memory is measured
    of_peak = (work / a / (operations / b) for a, b in zip(ours, theirs, strict=True))
    seconds = statistics.median(ours)
    return {
        "ms": 1000 * seconds,
        "TFLOP/s": work / seconds / 1e12,
        "MFU": statistics.median(of_peak),
        "GiB": peak_gib(sizes, run),
    }


def peak_gib(sizes: Sizes, run: Callable[[], object]) -> float | None:
    """Memory of the device at most, weights and all; of a processor nothing is told."""
    if sizes.device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def peak(sizes: Sizes) -> list[Row]:
    rows = []
    for side in (sizes.square // 2, sizes.square, 2 * sizes.square):
        product, operations = squares(sizes, side)
        seconds = statistics.median(timed(sizes, product)[0])
        rows.append({"side": side, "ms": 1000 * seconds / 8, "TFLOP/s": operations / seconds / 1e12})
    return rows


@torch.no_grad()
def attention(sizes: Sizes) -> list[Row]:
    """Patches of a packed batch and of the same batch padded, in bfloat16, beside float32 and sdpa padded."""
    size, lengths, rows = sizes.of_model("base"), list(sizes.lengths), []

    def encoded(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        model = encoder.make_model(size, name, sizes.device, dtype)
        model.set_attn_implementation(name)
        packed = encoder.make_patches(lengths, sizes.device, dtype)
        padded = encoder.pad_packed(packed, lengths)
        alone = model(**padded).last_hidden_state[padded["pixel_attention_mask"]]
        return model(**packed).last_hidden_state.float(), alone.float()

    def difference(one: Tensor, other: Tensor) -> float:
        return ((one - other).norm() / other.norm()).item()

    _, expected = encoded("sdpa", torch.float32)
    # What bfloat16 itself takes from the result: two ways to compute it lie about as far apart.
    allowed = 2 * difference(encoded("sdpa", torch.bfloat16)[1], expected)
    for name in ("sdpa", "flex_attention", "flash_attention_2"):
        if name.startswith("flash") and (sizes.device == "cpu" or not find_spec("flash_attn")):
            rows.append({"attention": f"{name}: not run, for want of flash_attn and a GPU"})
            continue
        packed, padded = encoded(name, torch.bfloat16)
        found = [difference(packed, padded), difference(packed, expected), difference(padded, expected)]
        names = ("packed from padded", "packed from float32", "padded from float32")
        row = {"attention": name, **dict(zip(names, found, strict=True)), "allowed": allowed}
        rows.append(row | {"agrees": max(found) <= allowed})
    return rows


def model_step(
    sizes: Sizes, size: str, count: int, batch: int, train: bool = True, compiled: bool = False
) -> tuple[torch.nn.Module, Callable[[], None], float]:
    """A model, one pass over random patches, and the floating-point operations of its products.

    Args:
        sizes: where it runs.
        size: of the model.
        count: patches of a clip.
        batch: clips.
        train: forward and backward as the training loop does, float32 weights under bfloat16 autocast;
            otherwise forward alone, of bfloat16 weights.
        compiled: as `optim.compile` does it.
    """
    dtype = torch.float32 if train else torch.bfloat16
    model = encoder.make_model(size, device=sizes.device, dtype=dtype).train(train)
    if compiled:
        model.compile(dynamic=False)
    inputs = encoder.one_row(count, batch=batch, device=sizes.device, dtype=dtype)

    def run() -> None:
        model.zero_grad()
        low = torch.autocast(sizes.device, torch.bfloat16, enabled=train)
        with torch.set_grad_enabled(train), low, trusted_values():
            pooled = model(**inputs).pooler_output
        if train:
            pooled.float().square().mean().backward()

    work = encoder.products(model.config, [count] * batch)
    return model, run, BACKWARD * work if train else work


def model(sizes: Sizes, size: str, compiled: bool) -> list[Row]:
    rows = []
    for train in (False, True):
        for count in sizes.patches:
            batch = sizes.batch_patches // count
            _, run, work = model_step(sizes, sizes.of_model(size), count, batch, train, compiled)
            case = {"pass": "forward + backward" if train else "forward", "patches": count, "clips": batch}
            rows.append(case | speed(sizes, run, work))
    return rows


def cluster(sizes: Sizes) -> list[Row]:
    """The loss's pass and its update of the centers, beside the large model's own pass and update."""
    count, batch = sizes.patches[0], sizes.batch_clips
    large, run, _ = model_step(sizes, sizes.of_model("large"), count, batch)
    dim, rows = large.config.hidden_size, []
    embeddings, labels = cluster_benchmark.batch(sizes.classes, dim, batch, 8)
    embeddings, labels = embeddings.detach().to(sizes.device).requires_grad_(), labels.to(sizes.device)
    adamw = torch.optim.AdamW
    dense = {"AdamW, foreach": {"foreach": True}, "AdamW, fused": {"fused": True}}
    for sparse, ways in ((False, dense), (True, {"RowSparseAdamW": {}})):
        loss = cluster_benchmark.build("shared", sizes.classes, dim, 0.1, 8, sparse).to(sizes.device)
        for name, how in ways.items():
            centers = (RowSparseAdamW if sparse else adamw)([loss.centers], **how)
            weights = adamw(large.parameters(), **how)
            loss_pass = functools.partial(cluster_benchmark.step, loss, embeddings, labels)
            turns = timed(sizes, loss_pass, centers.step, run, weights.step)
            passed, updated, *of_model = (1000 * statistics.median(turn) for turn in turns)
            memory = peak_gib(sizes, lambda turn=(loss_pass, centers.step): [one() for one in turn])
            rows.append(
                {
                    "centers' optimizer": name,
                    "loss, ms": passed,
                    "centers' update, ms": updated,
                    "model, ms": of_model[0],
                    "model's update, ms": of_model[1],
                    "share of the step": (passed + updated) / (passed + updated + sum(of_model)),
                    "GiB of loss and update, beside the model": memory,
                }
            )
            del centers, weights  # the moments of the next one take as much again
    return rows


def training(sizes: Sizes) -> list[Row]:
    """The large model and the cluster loss, from patch shards of the bundled clip, through `Trainer`."""
    size, count, rows = sizes.of_model("large"), sizes.patches[0], []
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    shown = {"size": sizes.side, "do_center_crop": True, "num_frames": sizes.frames, "num_patches": count}
    head = scale.HEAD | {"batch_size": sizes.batch_clips, "classes": sizes.classes, "processor": shown}
    product, operations = squares(sizes, sizes.square)
    work = BACKWARD * encoder.products(getattr(OneVisionConfig, size)(), [count])
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        corpus = scale.write_corpus(Path(folder) / "clips", sizes.clips)
        cut = {"shard_items": scale.SHARD_ITEMS, "workers": 0 if sizes.tiny else workers}
        extract_patches(str(corpus), shards, PatchifyConfig.from_dict(shown), **cut)
        for compiled in (False, True):
            before = timed(sizes, product)[0]
            found = scale.training(
                shards, Path(folder) / f"run-{compiled}", sizes.steps, head,
                device="cpu" if sizes.device == "cpu" else "auto", model={"size": size},
                optim={"precision": "bfloat16", "compile": compiled, "learning_rate": 1e-5},
                dataloader_num_workers=0 if sizes.tiny else workers, logging_steps=max(1, sizes.steps // 12),
            )  # fmt: skip
            peak_rate = operations / statistics.median(before + timed(sizes, product)[0])
            rate = found["samples_per_second"]
            rows.append(
                {
                    "compile": compiled,
                    "samples/s": rate,
                    "data wait": found["data_wait"],
                    "TFLOP/s": rate * work / 1e12,
                    "MFU": rate * work / peak_rate,
                }
            )
    return rows


def multimodal(sizes: Sizes) -> list[Row]:
    """`benchmarks/multimodal.py` on this device, with a language model of Qwen3-4B's shape."""
    llm = "tiny" if sizes.tiny else "large"
    args = argparse.Namespace(llm=llm, device=sizes.device, frames=sizes.frames, rounds=sizes.repeats)
    names = ["tokens", "prefill", "decode", *(["memory"] if sizes.device != "cpu" else [])]
    found = {name: multimodal_benchmark.ROWS[name](args) for name in names}
    return [
        {
            "connector": connector,
            "input": way,
            "visual tokens": found["tokens"][connector][way],
            "prefill, ms": found["prefill"][connector]["prefill"][way][0],
            "of it the encoder, ms": found["prefill"][connector]["of it the encoder"][way][0],
            "a token of the answer, ms": found["decode"][connector][way][0] / multimodal_benchmark.ANSWER,
            "MB above the weights": found["memory"][connector][way] if "memory" in found else None,
        }
        for connector in multimodal_benchmark.CONNECTORS
        for way in multimodal_benchmark.WAYS
    ]


def openvision3(sizes: Sizes) -> list[Row]:
    """An optimizer step of the published stage 1 on one process, as its dry run takes it."""
    name = "unified_smoke" if sizes.tiny else "openvision3_base_stage1"
    device = "cpu" if sizes.device == "cpu" else "auto"
    config = load_config(name, ["unified.tokenizer=builtin", f"device={device}"])
    processes = config.unified.pairs.batch_size // sizes.pairs
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where there are no shards
        plan = make_plan(config, Path(folder))
        small = small_run(plan, Path(folder), 1, processes)
        trainer = Trainer(small.config, small.datasets, checkpoints=False)
        batch = MicroBatches(trainer.task.mixture, RankSlice(0))[0]

    def step() -> None:
        trainer._accumulate(batch, 0, True)
        trainer.optimizers.clip()
        trainer.optimizers.step(1e-3)
        trainer.optimizers.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    found = speed(sizes, step, counter.get_total_flops())
    return [{"pictures": batch.samples, "pictures/s": 1000 * batch.samples / found["ms"], **found}]


class Part:
    """A function and what its table is called."""

    def __init__(self, title: str, run: Callable[..., list[Row]], **settings: Any):
        self.title, self.run = title, functools.partial(run, **settings)


_PASSES = "forward of bfloat16 weights, forward + backward as trained"
PARTS = {
    "attention": Part("Packed against padded: relative differences of the patches' states, base", attention),
    "peak": Part("Square products in bfloat16", peak),
    "base": Part(f"Base: {_PASSES}", model, size="base", compiled=False),
    "large": Part(f"Large: {_PASSES} (goal: MFU >= 0.50)", model, size="large", compiled=False),
    "training": Part("Training loop from patch shards, large (goal: MFU >= 0.45)", training),
    "cluster": Part("Cluster loss, 1,000,000 classes, and its share of a step of large (16 clips)", cluster),
    "multimodal": Part("Multimodal model, base encoder and 4B language model", multimodal),
    "openvision3": Part(
        "OpenVision 3, base: a step of stage 1, its operations as torch counts them", openvision3
    ),
    # They compile for minutes, so they come last.
    "large-compiled": Part("Large, compiled (goal: MFU >= 0.50)", model, size="large", compiled=True),
    "base-compiled": Part("Base, compiled", model, size="base", compiled=True),
}
