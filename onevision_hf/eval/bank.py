"""A bank of drawn clips beside an encoder: which of them a clip is most like, and which way its motion goes.

    bank = Bank.load(onevision_hf.tiny())
    bank.nearest(pooler_output, 4), bank.directions(last_hidden_state, patch_positions)

`bank.safetensors` holds features only; the clips themselves are drawn again from their seed to be shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..modeling.grid_pooling import grid_means
from ..modeling.modeling_onevision import OneVisionModel
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..synthetic import CLIP_FAMILIES, Clip, draw_clip, encode

FILE = "bank.safetensors"
BANK_SEED, FIT_SEED = 3, 101  # training drew from 1 and 2
DIRECTIONS = CLIP_FAMILIES["direction"].labels
_PENALTY = 1e3


@dataclass(frozen=True)
class Bank:
    """Features of drawn clips and a readout of directions.

    Attributes:
        pooled: (N, D) pooler_output of clip i of the world `seed`.
        weight, bias: (8, cells * D), (8,): ridge regression from the grid of tokens to `DIRECTIONS`.
        seed: of the clips.
    """

    pooled: Tensor
    weight: Tensor
    bias: Tensor
    seed: int

    @classmethod
    def load(cls, folder: str | Path) -> "Bank":
        """The bank in an encoder's folder.

        Raises:
            FileNotFoundError: it has none.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE}: --model tiny has one, scripts/train_tiny.py makes it"
            )
        with safe_open(path, "pt") as file:
            parts = {name: file.get_tensor(name).float() for name in ("pooled", "weight", "bias")}
            return cls(**parts, seed=int(file.metadata()["seed"]))

    def save(self, folder: str | Path) -> None:
        parts = {"pooled": self.pooled.half(), "weight": self.weight, "bias": self.bias}
        save_file(parts, Path(folder) / FILE, metadata={"seed": str(self.seed)})

    def nearest(self, pooled: Tensor, count: int) -> list[tuple[int, float]]:
        """(number, cosine) of the clips most like pooled (1, D); cosines of what differs from the bank's
        mean."""
        mean, spread = self.pooled.mean(0), self.pooled.std(0) + 1e-4
        bank, query = normalize((self.pooled - mean) / spread, dim=1), (pooled.float().cpu() - mean) / spread
        found = (bank @ normalize(query, dim=1)[0]).topk(count)
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def directions(self, states: Tensor, positions: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """How much the tokens (1, K, D) speak for each direction of sustained motion: 1 for it, 0 against."""
        scores = self.weight @ grid_means(states, positions, mask)[0].cpu() + self.bias
        return dict(zip(DIRECTIONS, scores.tolist(), strict=True))

    def clip(self, number: int) -> Clip:
        """Clip `number` of the bank, drawn again."""
        return draw_clip(self.seed, number)


def make_bank(folder: str | Path, count: int = 256, glides: int = 800, batch: int = 32) -> Bank:
    """Encode `count` drawn clips of every scene, and fit the readout of directions on `glides` others."""
    encoder = OneVisionModel.from_pretrained(folder).eval()
    processor = OneVisionVideoProcessor.from_pretrained(folder)
    bank = [out.pooler_output for out, _ in _outputs(encoder, processor, BANK_SEED, None, count, batch)]
    grids = [
        grid_means(out.last_hidden_state, positions)
        for out, positions in _outputs(encoder, processor, FIT_SEED, "direction", glides, batch)
    ]
    grid = torch.cat(grids)
    mean, spread = grid.mean(0), grid.std(0) + 1e-4
    features = ((grid - mean) / spread).double()
    targets = one_hot(torch.arange(glides) % len(DIRECTIONS)).double()
    offset = targets.mean(0)
    inner = features @ features.T + _PENALTY * torch.eye(glides, dtype=torch.float64)
    weight = ((features.T @ torch.linalg.solve(inner, targets - offset)).T / spread).float().contiguous()
    return Bank(torch.cat(bank), weight, (offset - weight.double() @ mean.double()).float(), BANK_SEED)


def _outputs(
    encoder: OneVisionModel,
    processor: OneVisionVideoProcessor,
    seed: int,
    family: str | None,
    count: int,
    batch: int,
) -> Iterator[Any]:
    """(outputs, positions) of clips 0..count-1, batch by batch."""
    for first in range(0, count, batch):
        clips = [encode(draw_clip(seed, i, family).frames) for i in range(first, min(first + batch, count))]
        inputs = processor(clips, return_tensors="pt")
        with torch.inference_mode():
            yield encoder(**inputs), inputs["patch_positions"]
