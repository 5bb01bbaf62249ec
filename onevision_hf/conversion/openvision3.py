"""The published OpenVision 3 towers: `open_clip_pytorch_model.bin` and, when there, `open_clip_config.json`.

    onevision convert openvision3 FOLDER_OR_HUB_ID DST

The layout is open_clip's VisionTransformer with a patch convolution over 16 latent channels
(UCSC-VLAA/OpenVision, src/convert_upload/open_clip): 6 tensors and 12 a block, so 150 for base and 294 for
large, with or without a `visual.` prefix. Sizes come from the shapes; the JSON, when there, gives what
shapes cannot tell and is held to the architecture.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch

from onevision_hf.conversion import checkpoint
from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
from onevision_hf.modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from onevision_hf.modeling.modeling_openvision3 import OpenVision3Model, sincos_position_table

WEIGHTS, SETTINGS = "open_clip_pytorch_model.bin", "open_clip_config.json"
TABLE_TOLERANCE = 1e-4
HEAD_WIDTH = 64
PIXELS_PER_LATENT = 8

# A text tower beside the vision tower. The second group has names of the vision tower's own, so it is text
# only where the vision tower has its prefix.
TEXT = re.compile(
    r"(text|text_encoder|text_decoder|token_embedding|ln_final)\.|(text_projection|logit_scale|logit_bias|attn_mask)$"
)
TEXT_BESIDE_PREFIX = re.compile(r"transformer\.|(positional_embedding|cls_emb)$")

# Published name -> ours, for what is the same tensor in both.
OUTSIDE = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
HINTS = {
    "class_embedding": "a tower without class token is another architecture: OpenVision 3's attends to one",
    "conv1.bias": "a patch convolution with bias (conv1.bias) is another architecture's: ours has none",
    "proj": "a tower without `proj` has no pooled vector to convert",
}


class OpenVision3Adapter:
    """open_clip's names to OpenVision3Model's; stateless."""

    name = "openvision3"
    model_class = OpenVision3Model

    def read(
        self, source: str, revision: str | None = None
    ) -> tuple[checkpoint.State, OpenVision3Config, dict[str, Path]]:
        """The published state dict of `source` (folder or Hub id), its config, and the files read."""
        files = checkpoint.find_files(source, [WEIGHTS], [SETTINGS, "README.md"], revision)
        settings = checkpoint.read_json(files[SETTINGS]) if SETTINGS in files else None
        state = checkpoint.read_torch(files[WEIGHTS])
        return state, self.config_of(state, settings), files

    def config_of(self, state: checkpoint.State, settings: dict[str, Any] | None = None) -> OpenVision3Config:
        """The configuration of a published state dict: sizes from its shapes, the rest from `settings`.

        `settings` is the content of open_clip_config.json. Raises `CheckpointMismatchError` for keys or
        shapes, `CheckpointError` for a setting or a positional table of another architecture.
        """
        tower = vision_tower(state)
        head_width, eps = read_settings(settings)
        shapes = check_tower(tower)
        if shapes["width"] % head_width:
            raise checkpoint.CheckpointError(
                f"width {shapes['width']} cannot be split into heads of {head_width} channels"
            )
        grid = math.isqrt(shapes["rows"] - 1)
        check_table(tower["positional_embedding"], grid)
        return OpenVision3Config(
            hidden_size=shapes["width"],
            intermediate_size=shapes["mlp"],
            num_hidden_layers=shapes["layers"],
            num_attention_heads=shapes["width"] // head_width,
            projection_dim=shapes["projection"],
            patch_size=shapes["patch"],
            latent_channels=shapes["channels"],
            image_size=grid * shapes["patch"] * PIXELS_PER_LATENT,
            layer_norm_eps=eps,
        )

    def to_ours(self, state: checkpoint.State) -> checkpoint.State:
        """A published state dict -> OpenVision3Model's, contiguous, without the table, which is a formula."""
        tower = vision_tower(state)
        check_tower(tower)
        ours = {name: tower[published] for published, name in OUTSIDE.items()}
        ours["visual_projection.weight"] = tower["proj"].T
        for layer in range(count_layers(tower)):
            theirs, here = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            for kind in ("weight", "bias"):
                ours |= {
                    f"{here}{name}.{kind}": tower[f"{theirs}{key}.{kind}"] for key, name in IN_BLOCK.items()
                }
                parts = tower[f"{theirs}attn.in_proj_{kind}"].chunk(3)
                ours |= {
                    f"{here}self_attn.{letter}_proj.{kind}": part
                    for letter, part in zip("qkv", parts, strict=True)
                }
        # Cloned where they are views: safetensors refuses tensors that share memory.
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in ours.items()}

    def processors(
        self, config: OpenVision3Config, files: dict[str, Path]
    ) -> list[OpenVision3ImageProcessor]:
        """The image processor at the size that the tower was last trained at."""
        side = config.image_size
        return [
            OpenVision3ImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        ]


def vision_tower(state: checkpoint.State) -> checkpoint.State:
    """The vision tower's tensors under their bare names; text towers are left out by name, the rest stays."""
    bare: checkpoint.State = {}
    for key, tensor in state.items():
        name = key.removeprefix("module.")
        if name in bare:
            raise checkpoint.CheckpointError(
                f"{name} is in the checkpoint twice, with and without the prefix module."
            )
        bare[name] = tensor
    if not any(name.startswith("visual.") for name in bare):
        return {name: tensor for name, tensor in bare.items() if not TEXT.match(name)}
    return {
        name.removeprefix("visual."): tensor
        for name, tensor in bare.items()
        if name.startswith("visual.") or not (TEXT.match(name) or TEXT_BESIDE_PREFIX.match(name))
    }


def count_layers(tower: checkpoint.State) -> int:
    found = (re.match(r"transformer\.resblocks\.(\d+)\.", key) for key in tower)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def tower_shapes(
    width: int, layers: int, mlp: int, projection: int, channels: int, patch: int, rows: int
) -> dict[str, tuple[int, ...]]:
    """Every key of the published layout with its shape.

    Args:
        width: of the encoder.
        layers: transformer layers.
        mlp: width inside the MLPs.
        projection: width of the projected features.
        channels: of the latents.
        patch: side on the latent grid.
        rows: of the positional table, the class token's among them.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (rows, width),
        "conv1.weight": (width, channels, patch, patch),
        "proj": (width, projection),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }
    of_block = {
        **{"ln_1.": (width,), "ln_2.": (width,)},
        **{"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width)},
        **{"mlp.c_fc.": (mlp, width), "mlp.c_proj.": (width, mlp)},
    }
    for layer in range(layers):
        for name, shape in of_block.items():
            at = f"transformer.resblocks.{layer}.{name}"
            shapes |= {f"{at}weight": shape, f"{at}bias": shape[:1]}
    return shapes


def check_tower(tower: checkpoint.State) -> dict[str, int]:
    """The sizes of a tower, read from its shapes. Raises `CheckpointMismatchError` unless every key has its
    place.
    """
    what, layers = "an OpenVision 3 vision tower", max(count_layers(tower), 1)
    sizing = {
        "conv1.weight": 4,
        "proj": 2,
        "positional_embedding": 2,
        "transformer.resblocks.0.mlp.c_fc.weight": 2,
    }
    unsized = [key for key, rank in sizing.items() if key not in tower or tower[key].ndim != rank]
    if unsized:
        # Without these there are no sizes to hold shapes against: names are what can be compared.
        names = tower_shapes(0, layers, 0, 0, 0, 0, 0)
        left = [key for key in tower if key not in names]
        missing = [key for key in names if key not in tower]
        misshapen = {key: (tuple(tower[key].shape), (-1,) * sizing[key]) for key in unsized if key in tower}
        hints = [HINTS[key] for key in (*left, *missing) if key in HINTS]
        raise checkpoint.CheckpointMismatchError(what, left, missing, misshapen, hints)
    width, channels, patch, _ = tower["conv1.weight"].shape
    rows = tower["positional_embedding"].shape[0]
    sizes = {
        "width": width,
        "layers": layers,
        "mlp": tower["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "projection": tower["proj"].shape[1],
        "channels": channels,
        "patch": patch,
        # One row for the class token and a square grid.
        "rows": max(math.isqrt(max(rows - 1, 0)), 1) ** 2 + 1,
    }
    checkpoint.check_keys(what, tower, tower_shapes(**sizes), HINTS)
    return sizes


def check_table(table: torch.Tensor, grid: int) -> None:
    """Raise `CheckpointError` unless `table` is the sin-cos formula over a zero row, to within 1e-4."""
    formula = torch.cat([torch.zeros(1, table.shape[1]), sincos_position_table(grid, grid, table.shape[1])])
    difference = (table.float() - formula).abs().max().item()
    if not difference <= TABLE_TOLERANCE:
        raise checkpoint.CheckpointError(
            f"positional_embedding is not the fixed sin-cos table of a {grid} x {grid} grid: it differs by "
            f"{difference:.3g} (at most {TABLE_TOLERANCE:g}); a learned table has no place in "
            "OpenVision3Model"
        )


def read_settings(settings: dict[str, Any] | None) -> tuple[int, float]:
    """(head width, LayerNorm epsilon) of an open_clip_config.json; the published values when there is none.

    Raises `CheckpointError` for a setting that makes it another architecture with the same shapes.
    """
    if settings is None:
        return HEAD_WIDTH, 1e-6
    model = settings.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vision, dict):
        raise checkpoint.CheckpointError(f"{SETTINGS} has no model_cfg with a vision_cfg")
    required = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    for key, expected in required.items():
        if vision.get(key) != expected:
            raise checkpoint.CheckpointError(
                f"{SETTINGS} says {key} = {vision.get(key)!r}; an OpenVision 3 tower has {expected!r}"
            )
    if model.get("quick_gelu") or vision.get("act_kwargs"):
        raise checkpoint.CheckpointError(f"{SETTINGS} asks for another activation than GELU")
    # open_clip's own defaults, where a field is left out.
    return int(vision.get("head_width", HEAD_WIDTH)), float(
        (vision.get("norm_kwargs") or {}).get("eps", 1e-5)
    )
