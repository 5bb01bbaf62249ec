"""The probe as a task of the trainer: a frozen encoder that no checkpoint holds, and a head that learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.modeling_onevision_classification import (
    OneVisionAttentiveHead,
    OneVisionForVideoClassification,
)
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...objectives.collectives import mean_over_processes
from ...training.mixture import MixtureComponent, Transform
from ...training.sampler import Sampler
from ...training.tasks.task import Inputs, Task
from .clip_lists import ClipDataset, ProbeClips
from .clip_transform import InputSettings
from .config import ProbeConfig
from .encoders import FrozenEncoder, OneVisionTokens, Tokens

COMPONENT = "probe"


class ProbeModel(nn.Module):
    """(B, C) logits of a batch: of its clips, or of tokens that were encoded before.

    The encoder is no submodule: DDP, optimizers and checkpoints see the head alone.
    """

    def __init__(self, encoder: FrozenEncoder, head: OneVisionAttentiveHead):
        super().__init__()
        self._frozen = (encoder,)
        self.head = head

    def forward(self, inputs: Inputs) -> Tensor:
        batch = inputs[COMPONENT]
        mask = batch.get("pixel_attention_mask")
        if "tokens" in batch:
            tokens = Tokens(batch["tokens"].float(), batch["patch_positions"], mask)
        else:
            tokens = self._frozen[0](batch["pixel_values_videos"], batch["patch_positions"], mask)
        return self.head(tokens.states, tokens.positions, tokens.mask)


@dataclass
class ProbeData:
    """Rows to train and to test on, and how each is shown; the clips that they are of, and how those are
    cut."""

    clips: ProbeClips
    train: ClipDataset
    test: ClipDataset
    train_transform: Transform
    test_transform: Transform
    settings: InputSettings

    @property
    def names(self) -> list[str]:
        return self.clips.names

    @property
    def test_clips(self) -> ClipDataset:
        return self.clips.test


class ProbeTask(Task):
    """See `training.tasks.Task`: given to the trainer as it is, so no config names it and none plans it.

    Args:
        config: of the probe.
        seed: of the head.
        encoder: that is probed.
        data: clips, or their tokens.
    """

    def __init__(self, config: ProbeConfig, seed: int, encoder: FrozenEncoder, data: ProbeData):
        self.config, self.encoder, self.data, self.seed = config, encoder, data, seed
        sampler = Sampler(len(data.train), seed, component=0)
        self.mixture = [
            MixtureComponent(COMPONENT, data.train, data.train_transform, config.batch_size, sampler)
        ]
        self.weights = {COMPONENT: 1.0}

    def build(self) -> None:
        """A new head; the same on any number of processes."""
        torch.manual_seed(self.seed)
        head = OneVisionAttentiveHead(
            self.encoder.hidden_size,
            len(self.data.names),
            self.config.head.position,
            self.encoder.rope_theta,
        )
        head.reset_parameters()
        self.model = ProbeModel(self.encoder, head)

    def prepare(self, inputs: Inputs, key: int) -> Tensor:
        return inputs[COMPONENT]["labels"][:, 0]

    def losses(self, outputs: Tensor, prepared: Tensor) -> dict[str, Tensor]:
        smoothing = self.config.head.label_smoothing
        own = cross_entropy(outputs.float(), prepared, label_smoothing=smoothing, reduction="sum")
        mean = mean_over_processes(own[None], torch.full_like(own, len(prepared))[None])
        return {COMPONENT: mean[0]}

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write what `AutoModelForVideoClassification` loads, or over another encoder the head's weights."""
        if isinstance(self.encoder, OneVisionTokens):
            save_classifier(
                self.encoder, self.data.names, self.config, self.model.head, folder, self.data.settings
            )
        else:
            save_file(self.model.head.state_dict(), folder / "head.safetensors")

    def load_head(self, path: Path) -> None:
        self.model.head.load_state_dict(load_file(path, device=str(self.model.head.probe.device)))


def save_classifier(
    encoder: OneVisionTokens,
    names: list[str],
    config: ProbeConfig,
    head: OneVisionAttentiveHead,
    folder: Path,
    settings: InputSettings,
) -> None:
    """The encoder and the head as one `OneVisionForVideoClassification`, with the processor.

    The processor gives what the head was trained on; whole frames that stand alone (`frames`) no processor
    gives.

    Args:
        encoder: that was probed.
        names: of the classes.
        config: of the probe.
        head: that was trained.
        folder: to write into.
        settings: how clips were shown.
    """
    values = encoder.model.config.to_dict() | {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "probe_position": config.head.position,
        "label_smoothing": config.head.label_smoothing,
    }
    model = OneVisionForVideoClassification(OneVisionConfig.from_dict(values))
    state = {f"onevision_encoder.{name}": value for name, value in encoder.model.state_dict().items()}
    state |= {f"classifier.{name}": value for name, value in head.state_dict().items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    model.save_pretrained(folder)
    everything = {"keep_ratio": 1.0} if settings.kind == "dense" else {}
    shown = settings.config.replace(**everything)
    OneVisionVideoProcessor(**shown.to_dict()).save_pretrained(folder)
