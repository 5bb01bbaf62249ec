"""Which way the shape of a drawn clip moves: a linear head over the tokens of onevision-tiny.

    python -m onevision_hf.eval.probes.direction_head     # of one drawn clip, right or wrong

`scripts/train_tiny.py --head` fits it on drawn clips and measures it on others (the figure is in the card of
onevision-tiny). It is linear in the means of the tokens in a coarse grid of time and space; all parts share
one projection, so it stays small. It knows clips of one moving shape; what it predicts for others means
nothing.

Shapes: K patches of a clip, D channels, d of the projection.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ...assets import tiny
from ...modeling.grid_pooling import GRID, grid_means
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...synthetic import CLIP_FAMILIES, Clip, draw_clip, encode

FILE = "direction_head.safetensors"
FAMILY = "direction"
DIRECTIONS = CLIP_FAMILIES[FAMILY].labels
PARTS = GRID[0] * GRID[1] * GRID[2]
DEMO_SEED = 2026  # of the clip that is shown; it was fixed before anyone saw what the head predicts


@dataclass(frozen=True)
class DirectionHead:
    """projection (D, d), weight (8, parts * d) and bias (8,), float32."""

    projection: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, folder: str | Path) -> "DirectionHead":
        """The head in an encoder's folder.

        Raises:
            FileNotFoundError: it has none.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE}: onevision-tiny has one, scripts/train_tiny.py makes it"
            )
        with safe_open(path, "pt") as file:
            return cls(**{name: file.get_tensor(name).float() for name in ("projection", "weight", "bias")})

    def save(self, folder: str | Path) -> None:
        """Write it into an encoder's folder, in float16."""
        save_file(
            {name: value.half().contiguous() for name, value in vars(self).items()}, Path(folder) / FILE
        )

    def logits(self, grid: Tensor) -> Tensor:
        """(N, 8) of the means of N clips in a grid, (N, parts * D)."""
        return (grid.unflatten(1, (PARTS, -1)) @ self.projection).flatten(1) @ self.weight.T + self.bias

    def probabilities(
        self, states: Tensor, positions: Tensor, mask: Tensor | None = None
    ) -> dict[str, float]:
        """How probable each direction is.

        Args:
            states: (1, K, D) last_hidden_state.
            positions: (1, K, 3) patch_positions.
            mask: (1, K), 1 for a real patch.
        """
        found = self.logits(grid_means(states, positions, mask).cpu()).softmax(1)[0]
        return dict(zip(DIRECTIONS, found.tolist(), strict=True))


@torch.inference_mode()
def direction_of(
    clip: Clip, encoder: PreTrainedModel, processor: OneVisionVideoProcessor, head: DirectionHead
) -> dict[str, float]:
    """How probable each direction is of a drawn clip.

    Args:
        clip: what `draw_clip` gives; it is encoded as a file and read from it.
        encoder: onevision-tiny.
        processor: of that encoder.
        head: of that encoder.
    """
    inputs = processor(encode(clip.frames), return_tensors="pt").to(encoder.device)
    states = encoder(**inputs).last_hidden_state
    return head.probabilities(states, inputs["patch_positions"])


def demonstrate() -> tuple[Clip, dict[str, float]]:
    """A drawn clip, whose truth is `labels["direction"]`, and how probable each direction is to the head."""
    encoder = OneVisionModel.from_pretrained(tiny()).eval()
    processor = OneVisionVideoProcessor.from_pretrained(tiny())
    clip = draw_clip(DEMO_SEED, 0, FAMILY)
    return clip, direction_of(clip, encoder, processor, DirectionHead.load(tiny()))


def main() -> None:
    clip, probabilities = demonstrate()
    truth = clip.labels[FAMILY]
    predicted = max(probabilities, key=lambda name: probabilities[name])
    print(f"A drawn clip (seed {DEMO_SEED}) of one moving shape; a linear head on onevision-tiny:")
    for name, probability in sorted(probabilities.items(), key=lambda pair: -pair[1]):
        print(f"  {name:<12}{100 * probability:5.1f} %{'   the truth' if name == truth else ''}")
    print(f"It predicts {predicted}, which is {'right' if predicted == truth else 'wrong'}.")


if __name__ == "__main__":
    main()
