"""Make onevision-tiny: draw clips, cluster them, train, and again with the encoder's own features.

    python scripts/train_tiny.py                      # all, into out/tiny; an interrupted run goes on
    python scripts/train_tiny.py --out out/small --glides 120 --mixed 60 --clusters 8 8 --steps 6 6 # minutes
    python scripts/train_tiny.py --head               # only the linear head for directions, on the encoder in
                                                      # the package, and its figure in the card

No stage of the encoder's training sees a label: the truth that `onevision synth` writes is read by `cluster
purity`, and at the end by a linear head for the eight directions. Stages are the package's own commands, each
of which is resumable; how long each took is in OUT/stages.json, what purity said in OUT/purity.json, and the
encoder in OUT/onevision-tiny.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from onevision_hf.eval.probes.direction_head import DirectionHead

ROOT = Path(__file__).parents[1]
HEADS = ("object", "motion")
# Round 0: what needs no weights. Later: the pooled output says what, the tokens' means in a grid say how.
POOLS = {"object": "pooler", "motion": "grid"}
HEAD_FIT_SEED, HEAD_TEST_SEED = 101, 102  # of clips; training drew from 1 and 2
HEAD_BEGIN, HEAD_END = "<!-- train_tiny.py --head -->", "<!-- end of the head -->"


class Pipeline:
    """Commands run one after another; those that a former run finished are passed over.

    Args:
        out: folder of everything.
    """

    def __init__(self, out: Path):
        self.out = out
        out.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *command: str | Path | int) -> str:
        """The standard output of a command, and its seconds in stages.json. Ends the script if it fails."""
        done = self.read("stages.json")
        if name in done:
            return done[name]["output"]
        words = [str(word) for word in command]
        print(f"[{name}] {shlex.join(words)}", flush=True)
        start = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        if result.returncode:
            sys.exit(f"{name} ended with status {result.returncode}; the same command goes on from here")
        seconds = round(time.perf_counter() - start, 1)
        print(f"[{name}] {seconds:.0f} s", flush=True)
        self.write("stages.json", done | {name: {"seconds": seconds, "output": result.stdout}})
        return result.stdout

    def read(self, name: str) -> dict:
        path = self.out / name
        return json.loads(path.read_text()) if path.exists() else {}

    def write(self, name: str, content: dict) -> None:
        aside = self.out / f".{name}"
        aside.write_text(json.dumps(content, indent=1))
        aside.replace(self.out / name)


def cluster(
    pipeline: Pipeline, number: int, teacher: Path | None, clusters: Sequence[int]
) -> dict[str, Path]:
    """The shards of each head: clips labelled by descriptors (round 0), or by `teacher`'s features."""
    shards, out = {}, pipeline.out
    onevision = ("-m", "onevision_hf.cli", "cluster")
    for head, count in zip(HEADS, clusters, strict=True):
        folder, stage = out / f"round{number}" / head, f"round {number} {head}"
        how = ["--teacher", f"descriptors:{head}"]
        if teacher is not None:
            how = ["--teacher", str(teacher), "--pool", POOLS[head], "--cache", str(out / "cache")]
        clips, features, labels = out / "clips", folder / "features", folder / "labels"
        pipeline.run(f"{stage} features", *onevision, "features", clips, features, *how, "--workers", 2)
        pipeline.run(
            f"{stage} kmeans", *onevision, "kmeans", features, folder / "kmeans", "--clusters", count
        )
        pipeline.run(
            f"{stage} assign", *onevision, "assign", features, labels, "--centers", folder / "kmeans",
            "--labels", 1,
        )  # fmt: skip
        pipeline.run(f"{stage} pack", *onevision, "pack", clips, labels, folder / "shards", "--head", head)
        found = json.loads(pipeline.run(f"{stage} purity", *onevision, "purity", clips, labels, "--json"))
        pipeline.write("purity.json", pipeline.read("purity.json") | {stage: found})
        shards[head] = folder / "shards"
    return shards


def train(
    pipeline: Pipeline, number: int, shards: dict[str, Path], start: Path | None, steps: int, processes: int
) -> Path:
    """The trained folder, with the processor through which a teacher sees what the training saw."""
    run = pipeline.out / f"round{number}" / "run"
    given = [f"cluster.heads.{head}.source={folder}" for head, folder in shards.items()]
    given.append(f"cluster.heads.object.cache={pipeline.out / 'cache'}")
    if start is not None:
        given += [f"model.init_from={start}", "model.overrides={}"]
        # What the pooled output has learned is now asked of the tokens too.
        tokens = {"clips_of": "object", "source": shards["object"], "pooling": "grid", "max_labels": 1}
        given += [f"cluster.heads.object_tokens.{k}={v}" for k, v in tokens.items()]
        given.append("cluster.heads.object_tokens.labels_per_sample=1")
    # As `accelerate launch train.py`, which starts one process on a CPU: two make the same losses faster.
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, "train.py")
    pipeline.run(
        f"round {number} train",
        *launch,
        "--config",
        "onevision_tiny",
        "device=cpu",
        f"out={run}",
        f"max_steps={steps}",
        *given,
    )
    save_processors(run / "model")
    return run / "model"


def save_processors(folder: Path) -> None:
    """The middle square of a clip or picture as 64 x 64 pixels, 256 patches: what the cache holds."""
    from onevision_hf import OneVisionImageProcessor, OneVisionVideoProcessor

    square = {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    clips = {"num_frames": 64, "num_patches": 256, "camera": "median", "anchors": "first"}
    OneVisionVideoProcessor(**square, **clips, patch_size=8).save_pretrained(folder)
    OneVisionImageProcessor(**square, patch_size=8).save_pretrained(folder)


def publish(model: Path, target: Path) -> None:
    """The folder that goes into the package: float16 weights, a configuration that runs them in float32, both
    processors; the card is there already."""
    from safetensors.torch import save_file

    from onevision_hf import OneVisionImageProcessor, OneVisionModel, OneVisionVideoProcessor

    encoder = OneVisionModel.from_pretrained(model)
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    processors = {
        "preprocessor_config.json": OneVisionImageProcessor.from_pretrained(model),
        # A share, so that clips of a few frames have a budget too.
        "video_preprocessor_config.json": OneVisionVideoProcessor.from_pretrained(model, keep_ratio=1 / 16),
    }
    settings = {"config.json": encoder.config.to_diff_dict() | {"dtype": "float32"}}
    settings |= {name: processor.to_dict() for name, processor in processors.items()}
    for name, values in settings.items():
        # The code is the package's own, beside it.
        values = {k: v for k, v in values.items() if k not in ("auto_map", "_name_or_path")}
        (target / name).write_text(json.dumps(values, indent=2, sort_keys=True, default=dict) + "\n")


def draw_grids(folder: Path, seed: int, count: int, batch: int = 32) -> tuple["Tensor", "Tensor"]:
    """Means of the encoder's tokens of drawn clips, (count, parts * D), and the number of the direction of
    each, (count,)."""
    import torch

    from onevision_hf import OneVisionModel, OneVisionVideoProcessor
    from onevision_hf.eval.probes.direction_head import DIRECTIONS, FAMILY
    from onevision_hf.modeling.grid_pooling import grid_means
    from onevision_hf.synthetic import draw_clip, encode

    encoder = OneVisionModel.from_pretrained(folder).eval()
    processor = OneVisionVideoProcessor.from_pretrained(folder)
    grids, labels = [], []
    for first in range(0, count, batch):
        clips = [draw_clip(seed, index, FAMILY) for index in range(first, min(first + batch, count))]
        inputs = processor([encode(clip.frames) for clip in clips], return_tensors="pt")
        with torch.inference_mode():
            grids.append(grid_means(encoder(**inputs).last_hidden_state, inputs["patch_positions"]))
        labels += [DIRECTIONS.index(clip.labels[FAMILY]) for clip in clips]
        print(f"[head] {first + len(clips)} of {count} clips of seed {seed}", flush=True)
    return torch.cat(grids), torch.tensor(labels)


def fit_head(grids: "Tensor", labels: "Tensor", seed: int, channels: int = 28) -> "DirectionHead":
    """A linear head of rank `channels` in the tokens' D channels, by cross-entropy over all clips at once."""
    import torch

    from onevision_hf.eval.probes.direction_head import DIRECTIONS, PARTS, DirectionHead

    torch.manual_seed(seed)
    cells = grids.unflatten(1, (PARTS, -1))
    mean, spread = cells.mean((0, 1)), cells.std((0, 1)) + 1e-4
    inputs = (cells - mean) / spread
    width = inputs.shape[-1]
    projection = torch.nn.Linear(width, channels, bias=False)
    head = torch.nn.Sequential(
        projection,
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(PARTS * channels, len(DIRECTIONS)),
    )
    steps = 400
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        # Mean and spread go into the weights: the head reads the means of the tokens as they are.
        weight, bias = head[-1].weight, head[-1].bias
        folded = (projection.weight / spread).T
        bias = bias - weight @ (mean @ folded).repeat(PARTS)
    return DirectionHead(folded.detach(), weight.detach(), bias.detach())


def make_head(folder: Path, fit: int, test: int) -> None:
    """Fit the head of an encoder's folder on drawn clips, measure it on others, and write both there."""
    from onevision_hf.eval.probes.direction_head import DirectionHead

    grids, labels = draw_grids(folder, HEAD_FIT_SEED, fit)
    held_out, truth = draw_grids(folder, HEAD_TEST_SEED, test)
    found = []
    for seed in range(3):
        head = fit_head(grids, labels, seed)
        if seed == 0:
            head.save(folder)
            head = DirectionHead.load(folder)  # what is measured is what is kept
        found.append(100 * (head.logits(held_out).argmax(1) == truth).double().mean().item())
    line = (
        f"It names the direction of {found[0]:.1f} % of {test} held-out clips (seed {HEAD_TEST_SEED}), by "
        f"chance 12.5 %; fitted on\n{fit} clips (seed {HEAD_FIT_SEED}) from two other starts it is "
        f"{found[1]:.1f} % and {found[2]:.1f} %."
    )
    print(line)
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        before, rest = text.split(HEAD_BEGIN)
        card.write_text(
            f"{before}{HEAD_BEGIN}\n{line}\n{HEAD_END}{rest.split(HEAD_END)[1]}", encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "tiny")
    parser.add_argument("--glides", type=int, default=4000, help="clips of one moving sprite, seed 1")
    parser.add_argument("--mixed", type=int, default=2000, help="clips of every scene, seed 2")
    parser.add_argument("--clusters", type=int, nargs=2, default=(128, 64), help="of what, of how")
    parser.add_argument("--steps", type=int, nargs="*", default=(1300, 400), help="of each round")
    parser.add_argument("--processes", type=int, default=2, help="that train, one thread each")
    parser.add_argument(
        "--head", action="store_true", help="fit the head of the encoder in the package, no more"
    )
    parser.add_argument("--head-clips", type=int, nargs=2, default=(1500, 500), help="to fit on, to test on")
    args = parser.parse_args()
    if args.head:
        from onevision_hf import tiny

        make_head(tiny(), *args.head_clips)
        return
    pipeline = Pipeline(args.out.resolve())
    synth = ("-m", "onevision_hf.cli", "synth", "clips")
    clips = pipeline.out / "clips"
    # By the label that takes turns a folder is balanced; its name says nothing to any stage.
    pipeline.run(
        "draw glides", *synth, "--out", clips / "glides", "--count", args.glides, "--seed", 1, "--family",
        "direction",
    )  # fmt: skip
    pipeline.run("draw mixed", *synth, "--out", clips / "mixed", "--count", args.mixed, "--seed", 2)
    model: Path | None = None
    for number, steps in enumerate(args.steps):
        shards = cluster(pipeline, number, model, args.clusters)
        model = train(pipeline, number, shards, model, steps, args.processes)
    assert model is not None
    publish(model, pipeline.out / "onevision-tiny")
    make_head(pipeline.out / "onevision-tiny", *args.head_clips)
    print(f"trained: {pipeline.out / 'onevision-tiny'}")


if __name__ == "__main__":
    main()
