"""The multimodal model learns to answer: conversations in packs, a loss on the answers alone.

The published recipe: `llava_next/scripts/pretrain_ov_encoder.sh` and `sft_ov_encoder.sh` of
EvolvingLMMs-Lab/OneVision-Encoder: the connector first, then all parts with a lower rate for the tower.

Shapes: L tokens of a pack, sum N patches of its images (or videos), C*p*p values of a patch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ...data.conversations import open_conversations
from ...data.sources import MediaError
from ...modeling.configuration_onevision_vl import OneVisionVLConfig
from ...modeling.modeling_onevision_vl import OneVisionVLForConditionalGeneration
from ...modeling.multimodal_features import window_bounds
from ...modeling.processing_llava_onevision2 import LlavaOnevision2Processor
from ...modeling.processing_onevision_vl import NOT_LEARNED
from ...objectives.cluster_sampling import derive_key
from ...objectives.collectives import all_reduce_, size_of
from ..mixture import MixtureComponent, Sample
from ..sampler import MODEL, Sampler
from ..schema import ConfigError
from .packing import Measurer, measure, pack
from .task import Inputs, Task
from .vl_config import VLTrainConfig

NAME = "vl"
PARTS = {
    "vision_tower": "tower_lr_scale",
    "connector": "connector_lr_scale",
    "language_model": "llm_lr_scale",
}
KINDS = {"image": "pixel_values", "video": "pixel_values_videos"}
LENGTHS = "lengths.safetensors"


class PackedConversations:
    """Packs of conversations by number."""

    def __init__(self, conversations: Any, packs: list[np.ndarray]):
        self.conversations, self.packs = conversations, packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> "Pack":
        return Pack(self.conversations, self.packs[int(index)])


class Pack:
    """Conversations that share a row of the batch; read when a transform wants them."""

    def __init__(self, conversations: Any, numbers: np.ndarray):
        self.conversations, self.numbers = conversations, numbers
        self.key = "+".join(str(number) for number in numbers.tolist())


class PackTransform:
    """One pack as arrays: `input_ids`, `labels`, `position_ids` (L,), which start anew with every
    conversation, and of each kind of media the patches, positions and lengths of the items.

    `sizes` counts what each array holds of this pack, since a batch of packs is padded. An item is what
    attends to itself: of a published LLaVA-OneVision-2, to which everything is an image, a window.

    Args:
        processor: of the model.
        vl: section of the config.
        settings: of the processor; those of the section by default.
        window: frames of an attention window, of models that cut them.
    """

    def __init__(self, processor: Any, vl: Any, settings: Any = None, window: int | None = None):
        self.processor, self.vl, self.window = processor, vl, window
        self.settings: dict[str, Any] = vl.settings if settings is None else settings

    def __call__(self, example: Pack, rng: np.random.Generator | None, position: int) -> Sample:
        read = [self._read(example.conversations[int(number)]) for number in example.numbers]
        ids = torch.cat([one["input_ids"] for one in read])
        if len(ids) > self.vl.token_budget:
            raise MediaError(
                f"{len(ids)} tokens, more than vl.token_budget = {self.vl.token_budget}: raise it, or lower "
                "num_frames, num_patches, keep_ratio or max_pixels in vl.settings"
            )
        sample: Sample = {
            "input_ids": ids.numpy(),
            "labels": torch.cat([one["labels"] for one in read]).numpy(),
            "position_ids": torch.cat([torch.arange(len(one["input_ids"])) for one in read]).numpy(),
        }
        sizes = [len(ids)]
        values = 3 * self.processor.image_processor.patch_size**2
        for kind, pixels in KINDS.items():
            own = [one for one in read if pixels in one]
            patches = [one[pixels] for one in own] or [torch.zeros(0, values)]
            positions = [one[f"{kind}_patch_positions"] for one in own] or [torch.zeros(0, 3).long()]
            counts = [one[f"{kind}_cu_seqlens"].diff() for one in own] or [torch.zeros(0)]
            sample[pixels] = torch.cat(patches).numpy()
            sample[f"{kind}_patch_positions"] = torch.cat(positions).numpy()
            sample[f"{kind}_counts"] = torch.cat(counts).long().numpy()
            sizes += [len(sample[pixels]), len(sample[f"{kind}_counts"])]
        return {**sample, "sizes": np.array(sizes, np.int64)}

    def _read(self, conversation: Any) -> dict[str, Tensor]:
        try:
            found = self.processor.encode_dialogue(
                conversation.messages, plain=self.vl.prompt == "plain", **self.settings
            )
            if "image_grid_thw" in found:
                found["image_cu_seqlens"] = window_bounds(found.pop("image_grid_thw"), self.window)
                found["image_patch_positions"] = found.pop("patch_positions")
            return found
        except ValueError as error:
            if hasattr(error, "path"):  # VideoReadError names its file
                raise
            raise MediaError(f"{conversation.key}: {error}") from error


class VLLearner(nn.Module):
    """The model over packs: the summed loss of the answers, in one call for DDP and FSDP."""

    def __init__(self, vl: nn.Module, trains_media: bool):
        super().__init__()
        self.vl: Any = vl
        self.trains_media = trains_media

    def forward(self, inputs: Inputs) -> Tensor:
        """Loss (), in float32, summed over the tokens that are learned."""
        text, media = unpadded(inputs[NAME])
        labels = text["labels"]
        # Position i says what comes at i + 1; the first token of a conversation is nobody's answer.
        learned = (labels[1:] != NOT_LEARNED).nonzero()[:, 0]
        logits = self.vl(
            input_ids=text["input_ids"][None],
            position_ids=text["position_ids"][None],
            use_cache=False,
            logits_to_keep=learned,
            **media,
        ).logits[0]
        loss = nn.functional.cross_entropy(logits.float(), labels[1:][learned], reduction="sum")
        return loss if media or not self.trains_media else loss + self._nothing(labels.device)

    def _nothing(self, device: torch.device) -> Tensor:
        """Zero, with a gradient (of zero) for every weight that sees media: a process whose packs hold words
        alone would otherwise keep the others waiting."""
        model: Any = self.vl.get_base_model() if hasattr(self.vl, "get_base_model") else self.vl
        if any(p.requires_grad for p in model.vision_tower.parameters()):
            picture = smallest_picture(model.config, device)
            seen = model.get_image_features(*picture).pooler_output[0]
        else:
            width = model.config.vision_config.hidden_size
            seen = model.connector(torch.zeros(model.connector.block, width, device=device))
        return (seen * 0).sum()


class VLTask(Task):
    """See `Task`."""

    auto_class = "AutoModelForImageTextToText"
    pipeline_tag = "image-text-to-text"

    def __init__(self, config: VLTrainConfig, datasets: Mapping[str, Any]):
        self.config, self.vl = config, config.vl
        vl = config.vl
        try:
            self.model_config: Any = AutoConfig.from_pretrained(vl.model)
        except OSError as error:
            raise ConfigError(
                f"vl.model is {vl.model!r}, and no model can be read there: `onevision assemble` puts one "
                f"together ({error})"
            ) from error
        if not isinstance(self.model_config, OneVisionVLConfig):
            raise ConfigError(
                f"vl.model is a {self.model_config.model_type}, expected {OneVisionVLConfig.model_type}: "
                "put one together with `onevision assemble`"
            )
        self.processor: Any = AutoProcessor.from_pretrained(vl.model)
        published = isinstance(self.processor, LlavaOnevision2Processor)
        self.settings = vl.published_settings if published else vl.settings
        conversations = datasets.get(NAME) or open_conversations(vl.source, vl.media_root)
        measurer = Measurer(self.processor, vl.prompt == "plain", self.settings)
        self.lengths = measure(conversations, measurer, Path(config.out) / LENGTHS)
        packs = pack(self.lengths, vl.token_budget, config.seed)
        self.packed = PackedConversations(conversations, packs)
        window = self.model_config.frame_windows_size
        transform = PackTransform(self.processor, vl, self.settings, window)
        sampler = Sampler(len(packs), config.seed, 0)
        packed: Any = self.packed
        self.mixture = [MixtureComponent(NAME, packed, transform, vl.batch_size, sampler)]
        self.weights = {NAME: 1.0}
        self.lr_scales = {part: getattr(vl, scale) for part, scale in PARTS.items()}
        self._metrics: dict[str, Tensor] = {}

    def build(self) -> None:
        """Load the model; the same new weights (of LoRA) on any number of processes."""
        torch.manual_seed(derive_key(MODEL, self.config.seed) % 2**63)
        # Float32 whatever the file holds: bfloat16 weights would swallow most small updates.
        model: Any = AutoModelForImageTextToText.from_pretrained(self.vl.model, dtype=torch.float32)
        self.generation_config = model.generation_config
        self.freeze(model)
        if self.lr_scales["vision_tower"] > 0:
            freeze_unread(model)
        if self.config.optim.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        learner: nn.Module = model
        if self.vl.lora_rank:
            learner = with_adapter(model, self.vl)
        trained = max(self.vl.tower_lr_scale, self.vl.connector_lr_scale) > 0
        self.model = VLLearner(learner, trains_media=trained)

    def freeze(self, model: nn.Module) -> None:
        """Leave the parts whose rate is 0 as they are."""
        for part, scale in self.lr_scales.items():
            getattr(model, part).requires_grad_(scale > 0)

    def prepare(self, inputs: Inputs, key: int) -> Tensor:
        """How many tokens all processes learn in this micro-batch, ()."""
        tensors = inputs[NAME]
        real = torch.arange(tensors["labels"].shape[1], device=tensors["labels"].device)
        mask = (real < tensors["sizes"][:, :1]) & (tensors["labels"] != NOT_LEARNED)
        return all_reduce_(mask.sum().float(), None)

    def losses(self, outputs: Tensor, prepared: Tensor) -> dict[str, Tensor]:
        mean = all_reduce_(outputs.detach().clone(), None) / prepared
        self._metrics = {"tokens_learned": prepared}
        # The value is the mean of all processes, the gradient that of this one's part of it.
        return {NAME: mean + (outputs - outputs.detach()) * size_of(None) / prepared}

    def metrics(self) -> dict[str, Tensor]:
        return {f"{NAME}/{name}": value for name, value in self._metrics.items()}

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        tensors = {key.removeprefix("vl."): value for key, value in state.items()}
        if self.vl.lora_rank:
            adapted: Any = self.model.vl
            adapted.save_pretrained(folder, state_dict=tensors)
        else:
            with torch.device("meta"):
                model: Any = AutoModelForImageTextToText.from_config(self.model_config)
            model.generation_config = self.generation_config
            model.save_pretrained(folder, state_dict=tensors)
        self.processor.save_pretrained(folder)


def unpadded(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The packs of a batch one after another: text (sum L,), and what the model takes of media."""
    sizes = tensors["sizes"].tolist()

    def joined(name: str, column: int) -> Tensor:
        return torch.cat([row[: size[column]] for row, size in zip(tensors[name], sizes, strict=True)])

    text = {name: joined(name, 0) for name in ("input_ids", "labels", "position_ids")}
    media: dict[str, Tensor] = {}
    for number, (kind, pixels) in enumerate(KINDS.items()):
        if not any(size[1 + 2 * number] for size in sizes):
            continue
        counts = joined(f"{kind}_counts", 2 + 2 * number)
        media[pixels] = joined(pixels, 1 + 2 * number)
        media[f"{kind}_patch_positions"] = joined(f"{kind}_patch_positions", 1 + 2 * number)
        media[f"{kind}_cu_seqlens"] = nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    return text, media


def freeze_unread(model: OneVisionVLForConditionalGeneration) -> None:
    """Take out of the training what no feature depends on: the layers after the one that is read, heads.

    Otherwise processes would wait for gradients that never come. Found by one backward pass.
    """
    found: Any = model.get_image_features(*smallest_picture(model.config, torch.device("cpu")))
    found.pooler_output[0].sum().backward()
    for parameter in model.vision_tower.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    model.zero_grad()


def smallest_picture(config: OneVisionVLConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What `get_image_features` takes of one black picture of one block of patches."""
    side = max(config.merge_size, getattr(config.vision_config, "spatial_merge_size", 1))
    places = [(0, h, w) for h in range(side) for w in range(side)]
    return (
        torch.zeros(side**2, 3 * config.vision_patch_size**2, device=device),
        torch.tensor(places, device=device),
        torch.tensor([0, side**2], dtype=torch.int32, device=device),
    )


def with_adapter(model: nn.Module, vl: Any) -> nn.Module:
    """Low-rank matrices next to the language model's own, through peft; the connector is kept whole."""
    from peft import LoraConfig, get_peft_model

    trained = vl.connector_lr_scale > 0
    config = LoraConfig(
        r=vl.lora_rank,
        lora_alpha=vl.lora_alpha,
        lora_dropout=vl.lora_dropout,
        target_modules=vl.lora_target,
        modules_to_save=["connector"] if trained else None,
    )
    adapted: Any = get_peft_model(model, config)  # type: ignore[arg-type]
    adapted.peft_config["default"].base_model_name_or_path = vl.model
    return adapted
