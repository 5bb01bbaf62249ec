"""What onevision-tiny knows: frozen features of held-out clips, read by a linear map and by neighbours.

    make tiny-table                                    # a quarter of an hour on two cores
    python benchmarks/tiny.py --clips 400 --seeds 1    # minutes

Three inputs go through the same classifiers: the encoder in the package, its architecture with random
weights, and raw pixels (each kept patch as its own 192 values). Three seeds: each draws other clips to fit
the classifier on, and other random weights. All are tested on one set of clips, of a seed that nothing else
has seen.
"""

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import onevision_hf
from onevision_hf import OneVisionModel, OneVisionVideoProcessor
from onevision_hf.data.patch_cache import PatchCache
from onevision_hf.modeling.grid_pooling import grid_means
from onevision_hf.synthetic import CLIP_FAMILIES, Job, produce, read_manifest
from onevision_hf.training.neighbours import neighbour_accuracy

FAMILIES = ("mover_colour", "mover_shape", "direction", "speed")
FIT_SEED, TEST_SEED = 1001, 2001  # training drew its clips from the seeds 1 and 2
PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
CLASSIFIERS = ("linear", "nearest neighbours")
BEGIN, END = "<!-- make tiny-table -->", "<!-- end of the table -->"


class Clips:
    """Drawn clips of one moving sprite: their patches, and the label of each family."""

    def __init__(self, folder: Path, seed: int, count: int, cache: PatchCache):
        media = folder / f"clips-{seed}"
        produce(Job("clips", seed, "direction"), media, count)
        rows = read_manifest(media).select(["path", "labels"]).to_pylist()[:count]
        cut = [cache(str(media / row["path"])) for row in rows]
        # A fixed budget of clips of one length: equal numbers of patches.
        self.patches = torch.from_numpy(np.stack([c["pixel_values_videos"] for c in cut]))
        self.positions = torch.from_numpy(np.stack([c["patch_positions"] for c in cut]))
        self.labels = {
            name: torch.tensor([CLIP_FAMILIES[name].labels.index(row["labels"][name]) for row in rows])
            for name in FAMILIES
        }


@torch.inference_mode()
def encode(model: OneVisionModel, clips: Clips, batch: int = 50) -> dict[str, Tensor]:
    """pooling -> (N, values)."""
    grid, pooled = [], []
    for patches, positions in zip(clips.patches.split(batch), clips.positions.split(batch), strict=True):
        outputs = model(pixel_values_videos=patches, patch_positions=positions)
        grid.append(grid_means(outputs.last_hidden_state, positions))
        pooled.append(outputs.pooler_output)
    return {"grid of tokens": torch.cat(grid), "pooler_output": torch.cat(pooled)}


def linear_accuracy(fit: Tensor, fit_labels: Tensor, test: Tensor, labels: Tensor) -> float:
    """Ridge regression to one-hot labels on standardised features; the penalty is chosen on a third of the
    clips that it is fitted on."""
    mean, spread = fit.mean(0), fit.std(0) + 1e-4
    fit, test = ((fit - mean) / spread).double(), ((test - mean) / spread).double()
    targets = torch.nn.functional.one_hot(fit_labels).double()
    targets -= targets.mean(0)
    products, part = fit @ fit.T, len(fit) * 2 // 3

    def solve(count: int, penalty: float) -> Tensor:
        return torch.linalg.solve(
            products[:count, :count] + penalty * torch.eye(count, dtype=torch.float64), targets[:count]
        )

    def hits(penalty: float) -> int:
        return int(((products[part:, :part] @ solve(part, penalty)).argmax(1) == fit_labels[part:]).sum())

    weights = solve(len(fit), max(PENALTIES, key=hits))
    return float(((test @ fit.T @ weights).argmax(1) == labels).double().mean())


def read(fit: Tensor, test: Tensor, fit_clips: Clips, test_clips: Clips) -> dict[str, dict[str, float]]:
    """family -> classifier -> accuracy."""
    mean, spread = fit.mean(0), fit.std(0) + 1e-4
    near, far = (fit - mean) / spread, (test - mean) / spread
    found = {}
    for family in FAMILIES:
        fit_labels, labels = fit_clips.labels[family], test_clips.labels[family]
        found[family] = {
            "linear": linear_accuracy(fit, fit_labels, test, labels),
            "nearest neighbours": neighbour_accuracy(far, labels, 10, bank=(near, fit_labels)),
        }
    return found


def measure(folder: Path, model_folder: Path, count: int, seeds: int) -> dict[str, list]:
    """input -> for each seed, family -> classifier -> accuracy."""
    processor = OneVisionVideoProcessor.from_pretrained(model_folder)
    cache = PatchCache(folder / "cache", processor.patchify_config())
    test = Clips(folder, TEST_SEED, count, cache)
    trained = OneVisionModel.from_pretrained(model_folder).eval()
    of_test = encode(trained, test)
    found: dict[str, list] = {}
    for seed in range(seeds):
        fit = Clips(folder, FIT_SEED + seed, count, cache)
        torch.manual_seed(seed)
        random = OneVisionModel(trained.config).eval()
        features = {
            **{f"trained, {n}": (f, of_test[n]) for n, f in encode(trained, fit).items()},
            **{f"random weights, {n}": pair for n, pair in _pairs(random, fit, test).items()},
            "raw pixels, grid of patches": (
                grid_means(fit.patches, fit.positions),
                grid_means(test.patches, test.positions),
            ),
        }
        for name, (a, b) in features.items():
            found.setdefault(name, []).append(read(a, b, fit, test))
    return found


def _pairs(model: OneVisionModel, fit: Clips, test: Clips) -> dict[str, tuple[Tensor, Tensor]]:
    a, b = encode(model, fit), encode(model, test)
    return {name: (a[name], b[name]) for name in a}


def table(found: dict[str, list]) -> str:
    """Mean and spread (half of largest minus smallest) over the seeds, in percent."""
    lines = [
        f"| input, features | classifier | {' | '.join(f.replace('_', ' ') for f in FAMILIES)} |",
        "|---|---|" + "---|" * len(FAMILIES),
        "| chance | | " + " | ".join(f"{100 * CLIP_FAMILIES[f].chance:.1f}" for f in FAMILIES) + " |",
    ]
    for name, runs in found.items():
        for classifier in CLASSIFIERS:
            cells = []
            for family in FAMILIES:
                values = [100 * run[family][classifier] for run in runs]
                cells.append(f"{np.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}")
            lines.append(f"| {name} | {classifier} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=onevision_hf.tiny())
    parser.add_argument("--clips", type=int, default=1000, help="to fit on, and to test on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep clips and patches there (default: nowhere)")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="pages whose table it replaces")
    args = parser.parse_args()
    start = time.perf_counter()
    weights = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()[:12]
    with tempfile.TemporaryDirectory() as nowhere:
        found = measure(args.folder or Path(nowhere), args.model, args.clips, args.seeds)
    load = os.getloadavg()[0]
    text = (
        f"{table(found)}\n\n{args.clips} clips to fit each of {args.seeds} seeds on, {args.clips} others to "
        f"test on; mean ± half the range over the seeds. Weights `{weights}`."
    )
    print(f"{text}\n{time.perf_counter() - start:.0f} s, load of the machine {load:.1f}")
    for page in args.write:
        before, rest = page.read_text(encoding="utf-8").split(BEGIN, 1)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
