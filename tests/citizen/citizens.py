"""Every model of the package as a citizen of transformers: how one is made, called and loaded.

The claims are those of transformers' common tests, which it does not ship. A model to which one does not
apply is named where the claim is made, with the reason (`models(without=...)`); docs/architecture.md lists
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from small import small_batch, small_config
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)
from vl_tiny import tiny_config

import onevision_hf
from onevision_hf import OneVisionConfig, OpenVision3Config
from onevision_hf.modeling.modeling_onevision import OneVisionFusedModel

IMAGE = 2  # the token that stands for a feature of an image in the prompts of the published models
ROWS = 2  # of every batch here


class Citizen(NamedTuple):
    """`closing` makes of the last hidden state what the model gives as `output`."""

    kind: Any
    config: Callable[[], Any]
    inputs: Callable[[], dict[str, Tensor]]
    auto: Any
    output: str
    closing: Callable[[Any, Tensor], Tensor] = lambda model, state: state

    def build(self, seed: int = 0, config: Any = None) -> Any:
        """A model whose weights are wide enough for attention to be far from uniform."""
        torch.manual_seed(seed)
        model = self.kind(config or self.config()).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        return model

    def result(self, model: Any, **changes: Any) -> Tensor:
        """What the model computes of the batch."""
        return getattr(model(**{**self.inputs(), **changes}), self.output)

    def scalar(self, model: Any, **changes: Any) -> Tensor:
        """A number whose gradient reaches all that the model computes with."""
        outputs = model(**{**self.inputs(), **changes})
        names = (self.output, "pooler_output")
        return sum(outputs[name].float().square().mean() for name in names if outputs.get(name) is not None)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def images() -> dict[str, Tensor]:
    return {"pixel_values": noise(ROWS, 3, 28, 42)}


def latents() -> dict[str, Tensor]:
    return {"latents": noise(ROWS, 16, 4, 4)}


def described_latents() -> dict[str, Tensor]:
    texts = small_batch(images=ROWS)
    del texts["pixel_values"]
    return {**latents(), **texts, "noise_seeds": torch.arange(ROWS)}


def prompts(merge: int, token: int, patch: int, own_names: bool, vocabulary: int) -> dict[str, Tensor]:
    """Two prompts with an image each, of one and two blocks of patches; the first is padded on the left."""
    positions = [
        (0, y, x) for blocks in (1, 2) for x0 in range(blocks) for y in range(merge)
        for x in range(x0 * merge, (x0 + 1) * merge)
    ]  # fmt: skip
    words = torch.randint(5, vocabulary, (ROWS, 6), generator=torch.Generator().manual_seed(2)).tolist()
    short, long = [1, 1, 1, *words[0][:2], token, *words[0][3:]], [words[1][0], token, token, *words[1][1:]]
    ids = torch.tensor([short[-8:], long])
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    found = {"input_ids": ids, "attention_mask": mask, "pixel_values": noise(3 * merge**2, 3 * patch**2)}
    if own_names:
        bounds = torch.tensor([0, merge**2, 3 * merge**2], dtype=torch.int32)
        return {
            **found,
            "image_patch_positions": torch.tensor(positions),
            "image_cu_seqlens": bounds,
        }
    grid = torch.tensor([[1, merge, merge], [1, merge, 2 * merge]])
    return {**found, "image_grid_thw": grid, "patch_positions": torch.tensor(positions)}


def published(kind: str) -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1,
        "image_size": 112, "out_hidden_size": 16, "spatial_merge_size": 2,
    }  # fmt: skip
    if kind == "mage_vl_vision":
        return AutoConfig.for_model(kind, **vision)
    text = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 512,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    if kind.endswith("moe"):
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    return AutoConfig.for_model(
        kind, text_config=text, vision_config=vision, image_token_id=2, video_token_id=3
    )


def encoder(name: str, auto: Any, closing: Any, **changes: Any) -> Citizen:
    output = "logits" if "Classification" in name else "last_hidden_state"
    if "Classification" in name:
        changes["num_labels"] = 3
    kind = getattr(onevision_hf, name, OneVisionFusedModel)
    return Citizen(kind, lambda: OneVisionConfig.tiny(**changes), images, auto, output, closing)


def multimodal(name: str, connector: str, text: str) -> Citizen:
    merge = 2 if connector == "patch_merger" else 1
    return Citizen(
        getattr(onevision_hf, name),
        lambda: tiny_config(connector, text),
        lambda: prompts(merge, 259, 14, True, 250),
        *((AutoModel, "last_hidden_state") if name.endswith("Model") else with_head()),
    )


def with_head() -> tuple[Any, str, Any]:
    return AutoModelForImageTextToText, "logits", lambda model, state: model.get_output_embeddings()(state)


def of_the_authors(name: str, kind: str) -> Citizen:
    patch = 16 if kind.startswith("mage") else 14
    return Citizen(
        getattr(onevision_hf, name),
        lambda: published(kind),
        lambda: prompts(2, IMAGE, patch, False, 64),
        *((AutoModel, "last_hidden_state") if name.endswith("Model") else with_head()),
    )


def normed(model: Any, state: Tensor) -> Tensor:
    return model.layernorm_post(state)


def classified(model: Any, state: Tensor) -> Tensor:
    return model.classifier(model.onevision_encoder.layernorm_post(state))


CITIZENS = {
    "OneVisionModel": encoder("OneVisionModel", AutoModel, normed),
    "OneVisionForImageClassification": encoder(
        "OneVisionForImageClassification", AutoModelForImageClassification, classified
    ),
    "OneVisionForVideoClassification": encoder(
        "OneVisionForVideoClassification", AutoModelForVideoClassification, classified
    ),
    "OneVisionFusedModel": encoder("OneVisionFusedModel", AutoModel, normed, layer_norm_type="rms_norm"),
    "MageVLVisionModel": Citizen(
        onevision_hf.MageVLVisionModel,
        lambda: published("mage_vl_vision"),
        lambda: {"pixel_values": noise(ROWS, 3, 32, 48)},
        AutoModel,
        "last_hidden_state",
    ),
    "OpenVision3Model": Citizen(
        onevision_hf.OpenVision3Model,
        lambda: OpenVision3Config.tiny(num_attention_heads=2),
        latents,
        AutoModel,
        "last_hidden_state",
        lambda model, state: state[:, 1:],  # the class token stands in front
    ),
    "UnifiedForPreTraining": Citizen(
        onevision_hf.UnifiedForPreTraining,
        lambda: small_config(pixel_weight=0.0),  # from latents to latents: without a VAE
        described_latents,
        AutoModelForPreTraining,
        "loss",
    ),
    "OneVisionVLModel": multimodal("OneVisionVLModel", "patch_merger", "qwen3"),
    "OneVisionVLForConditionalGeneration": multimodal(
        "OneVisionVLForConditionalGeneration", "mlp2x_gelu", "qwen3"
    ),
    "OneVisionVLForConditionalGeneration, merger": multimodal(
        "OneVisionVLForConditionalGeneration", "patch_merger", "llama"
    ),
    **{
        name: of_the_authors(name, kind)
        for name, kind in {
            "LlavaOnevision2Model": "llava_onevision2",
            "LlavaOnevision2ForConditionalGeneration": "llava_onevision2",
            "LlavaOnevision2MoeModel": "llava_onevision2_moe",
            "LlavaOnevision2MoeForConditionalGeneration": "llava_onevision2_moe",
            "MageVLModel": "mage_vl",
            "MageVLForConditionalGeneration": "mage_vl",
        }.items()
    },
}
WITH_TEXT = {name: one for name, one in CITIZENS.items() if hasattr(one.config(), "image_token_id")}
GENERATING = {name: one for name, one in WITH_TEXT.items() if one.output == "logits"}
TOWERS = {name: one for name, one in CITIZENS.items() if name not in WITH_TEXT}


def models(among: dict[str, Citizen] = CITIZENS, without: dict[str, str] | None = None) -> Any:
    """The test is made of these models, but for those to which its claim does not apply.

    Args:
        among: models by name.
        without: of those, names and the reasons.
    """
    return every("citizen", among, without or {})


def every(argument: str, among: dict[str, Any], without: dict[str, str]) -> Any:
    """A test of each of these by name, which knows the names of others and the reasons (`without`)."""
    assert without.keys() <= among.keys()
    kept = [pytest.param(one, id=name) for name, one in among.items() if name not in without]

    def decorate(test: Any) -> Any:
        test.without = without
        return pytest.mark.parametrize(argument, kept)(test)

    return decorate


def parts_of(model: nn.Module) -> list[Any]:
    """The models of transformers within one, itself included."""
    return [
        module for module in model.modules() if hasattr(module, "config") and hasattr(module, "post_init")
    ]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """To that part of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
