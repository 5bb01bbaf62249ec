"""The encoder as graphs that run without this package: one for selected patches, one for pictures.

    onevision export onnx FOLDER OUT       # video.onnx, image.onnx, and the weights of both in weights.data
    onevision export torch FOLDER OUT      # video.pt2, image.pt2: torch.export.load(...).module()

`export.json` beside them says what goes in and comes out, and how far the outputs are from the model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import AutoConfig, PreTrainedModel

from ..modeling.configuration_onevision import OneVisionConfig
from ..modeling.modeling_onevision import OneVisionModel

PATHS = ("video", "image")
ATTENTION = ("sdpa", "eager")
# Of the largest output; float32 sums in another order differ by about 1e-6.
TOLERANCE = 1e-4


class ExportError(ValueError):
    """This encoder cannot be exported so; the message says what stands in the way."""


class _Graph(nn.Module):
    """Around an encoder."""

    def __init__(self, model: OneVisionModel):
        super().__init__()
        self.model = model


class VideoGraph(_Graph):
    """Selected patches -> (last_hidden_state, pooler_output), the latter only of an encoder with a head."""

    inputs = ("pixel_values_videos", "patch_positions", "pixel_attention_mask")

    def forward(
        self, pixel_values_videos: Tensor, patch_positions: Tensor, pixel_attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """The encoder's outputs as a tuple, which graphs can have.

        Args:
            pixel_values_videos: (B, K, C*p*p).
            patch_positions: (B, K, 3) int64 [t, h, w].
            pixel_attention_mask: (B, K) bool.
        """
        return _outputs(
            self.model(
                pixel_values_videos=pixel_values_videos,
                patch_positions=patch_positions,
                pixel_attention_mask=pixel_attention_mask,
            )
        )

    def example(self, batch: int, patches: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs; the last tenth of the last item is padding.

        Args:
            batch: B.
            patches: K.
            seed: of torch's generator.
        """
        config, generator = self.model.config, torch.Generator().manual_seed(seed)
        width = config.num_channels * config.patch_size**2
        frames = config.rope_temporal_size or 64
        grid = torch.randint(0, 16, (batch, patches, 2), generator=generator)
        times = torch.randint(0, frames, (batch, patches, 1), generator=generator).sort(dim=1).values
        mask = torch.ones(batch, patches, dtype=torch.bool)
        mask[-1, patches - patches // 10 :] = False
        pixels = torch.randn(batch, patches, width, generator=generator)
        return pixels, torch.cat([times, grid], -1), mask

    def dynamic_shapes(self) -> dict[str, Any]:
        batch, patches = Dim("batch", min=1), Dim("patches", min=1)
        return {name: {0: batch, 1: patches} for name in self.inputs}

    def trials(self) -> list[tuple[Tensor, ...]]:
        """Inputs of other sizes than the one that was traced."""
        return [self.example(1, 17, 1), self.example(3, 40, 2), self.example(2, 96, 3)]


class ImageGraph(_Graph):
    """Pictures -> (last_hidden_state, pooler_output)."""

    inputs = ("pixel_values",)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return _outputs(self.model(pixel_values=pixel_values))

    def example(self, batch: int, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random pixels.

        Args:
            batch: B.
            rows: patches along the height.
            columns: patches along the width.
            seed: of torch's generator.
        """
        config, generator = self.model.config, torch.Generator().manual_seed(seed)
        side = config.patch_size
        return (torch.randn(batch, config.num_channels, rows * side, columns * side, generator=generator),)

    def dynamic_shapes(self) -> dict[str, Any]:
        side = self.model.config.patch_size
        rows, columns = Dim("rows", min=1), Dim("columns", min=1)
        return {"pixel_values": {0: Dim("batch", min=1), 2: side * rows, 3: side * columns}}

    def trials(self) -> list[tuple[Tensor, ...]]:
        return [self.example(1, 4, 4, 1), self.example(3, 2, 7, 2)]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares.

    error: the largest difference of each graph's outputs to the model's, over the largest output.
    """

    folder: Path
    files: dict[str, int]
    error: dict[str, float]


def load_encoder(folder: str, attention: str = "sdpa") -> OneVisionModel:
    """The encoder of a saved folder, in float32 on the CPU.

    Raises:
        ExportError: another kind of model, or attention that no graph can hold.
        OSError: there is none.
    """
    if attention not in ATTENTION:
        raise ExportError(
            f"attention {attention!r} runs in kernels of its own, which a graph cannot hold: choose one of "
            f"{', '.join(ATTENTION)}; the weights are the same"
        )
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, OneVisionConfig):
        raise ExportError(
            f"{folder} is a {config.model_type}; graphs are made of {OneVisionConfig.model_type}"
        )
    model = OneVisionModel.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


def check_paths(paths: tuple[str, ...]) -> None:
    """Raise ExportError for graphs that there are not."""
    unknown = [path for path in paths if path not in PATHS]
    if unknown or not paths:
        raise ExportError(f"unknown path {unknown}: choose of {', '.join(PATHS)}")


def make_graphs(model: PreTrainedModel, paths: tuple[str, ...] = PATHS) -> dict[str, Any]:
    kinds: dict[str, Any] = {"video": VideoGraph, "image": ImageGraph}
    return {path: kinds[path](model) for path in paths}


def trace(graph: Any) -> torch.export.ExportedProgram:
    """The graph as a program whose batch and number of patches are free."""
    example = graph.example(2, 24) if isinstance(graph, VideoGraph) else graph.example(2, 3, 5)
    with torch.no_grad():
        return torch.export.export(graph, example, dynamic_shapes=graph.dynamic_shapes(), strict=False)


def compare(graph: Any, run: Callable[..., Any]) -> float:
    """The largest difference over the largest output, over inputs of several sizes.

    Raises:
        ExportError: it is above `TOLERANCE`.
    """
    worst = 0.0
    for inputs in graph.trials():
        with torch.no_grad():
            expected, found = graph(*inputs), run(*inputs)
        for ours, theirs in zip(expected, found, strict=True):
            real = ours
            if len(inputs) == 3 and ours.ndim == 3:  # what padding becomes is nobody's business
                real, theirs = ours[inputs[2]], theirs[inputs[2]]
            worst = max(worst, float((real - theirs).abs().max() / real.abs().max()))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the exported graph is off by {worst:.1e} of the largest output (limit {TOLERANCE:g})"
        )
    return worst


def interface(graph: Any) -> dict[str, Any]:
    """What goes in and comes out, for `export.json`."""
    config = graph.model.config
    width = config.num_channels * config.patch_size**2
    shapes: Mapping[str, Any] = {
        "pixel_values_videos": ["batch", "patches", width],
        "patch_positions": ["batch", "patches", 3],
        "pixel_attention_mask": ["batch", "patches"],
        "pixel_values": [
            "batch",
            config.num_channels,
            f"{config.patch_size}*rows",
            f"{config.patch_size}*columns",
        ],
    }
    types = {"patch_positions": "int64", "pixel_attention_mask": "bool"}
    return {
        "inputs": {n: {"shape": shapes[n], "dtype": types.get(n, "float32")} for n in graph.inputs},
        "outputs": output_names(graph),
        "hidden_size": config.hidden_size,
        "patch_size": config.patch_size,
        "rope_temporal_size": config.rope_temporal_size,
    }


def output_names(graph: Any) -> list[str]:
    return ["last_hidden_state", "pooler_output"][: 2 if graph.model.config.use_head else 1]


def _outputs(found: Any) -> tuple[Tensor, ...]:
    if found.pooler_output is None:
        return (found.last_hidden_state,)
    return found.last_hidden_state, found.pooler_output
