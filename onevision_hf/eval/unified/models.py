"""A `UnifiedForPreTraining` with its VAE and its image processor, ready to be measured.

opened = open_model("runs/unified_drawn/model", device="cuda")
opened.model.reconstruct(opened.pixels([picture]))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig

from ...jobs.devices import pick_device
from ...modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from ...pretraining import UnifiedForPreTraining, UnifiedPreTrainingConfig
from ...pretraining.tokenizer import CaptionTokenizer, load_tokenizer


@dataclass
class OpenedModel:
    """`model` in evaluation on its device; `size`, the side in pixels of what it sees; `name` as given."""

    name: str
    model: UnifiedForPreTraining
    size: int
    _processor: OpenVision3ImageProcessor

    @property
    def device(self) -> torch.device:
        return self.model.device

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """RGB pictures -> (B, 3, size, size) in [-1, 1], resized and cropped, on the model's device."""
        return self._processor(list(pictures), return_tensors="pt").pixel_values.to(self.device)

    def tokenizer(self) -> CaptionTokenizer:
        """The one saved with the model, cut to what its text encoder reads.

        Raises ValueError when none was saved, or it has another number of tokens.
        """
        folder = Path(self.name)
        if folder.is_dir() and not list(folder.glob("tokenizer*")):
            raise ValueError(
                f"{folder} holds no tokenizer: save the one that the model was trained with into it "
                "(tokenizer.save_pretrained)"
            )
        tokenizer = load_tokenizer(self.name)
        config = self.model.config
        if len(tokenizer) != config.vocab_size:
            raise ValueError(
                f"the tokenizer in {self.name} has {len(tokenizer)} tokens, the model has "
                f"{config.vocab_size}: they were not trained together"
            )
        return CaptionTokenizer(tokenizer, config.text_config.max_positions)

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(B, E) in float32 of length 1, on the CPU."""
        found = self.model.get_image_features(self.pixels(pictures))
        return torch.nn.functional.normalize(found.float().cpu(), dim=-1)

    @torch.no_grad()
    def text_features(
        self, texts: Sequence[str], tokenizer: CaptionTokenizer, batch_size: int = 256
    ) -> Tensor:
        """(texts, E) in float32 of length 1, on the CPU.

        Args:
            texts: to encode.
            tokenizer: of the model.
            batch_size: texts at once.
        """
        rows = []
        for start in range(0, len(texts), batch_size):
            given = tokenizer(list(texts[start : start + batch_size]))
            found = self.model.get_text_features(
                **{key: value.to(self.device) for key, value in given.items()}
            )
            rows.append(torch.nn.functional.normalize(found.float(), dim=-1).cpu())
        return torch.cat(rows)


def open_model(
    name: str, *, device: str | None = None, vae: str | None = None, size: int | None = None
) -> OpenedModel:
    """Load `name`, a folder or Hub id.

    Args:
        name: a folder or Hub id.
        device: None is a GPU where there is one.
        vae: a diffusers AutoencoderKL instead of the one that the config names, loaded when first needed.
        size: side in pixels instead of the saved processor's.

    Raises:
        ValueError: another kind of model, a size that is no multiple of the model's tokens. OSError: nothing
        is there.
    """
    where = pick_device(device)
    config: Any = AutoConfig.from_pretrained(name)
    if not isinstance(config, UnifiedPreTrainingConfig):
        raise ValueError(
            f"{name} is a {config.model_type}, expected a model of unified pre-training "
            f"({UnifiedPreTrainingConfig.model_type}): what `onevision train` writes for the tasks "
            "openvision3 and unified"
        )
    if vae is not None:
        config.vae_name_or_path = vae
    if size is None:
        saved = Path(name) / "preprocessor_config.json"
        if Path(name).is_dir() and not saved.is_file():
            raise ValueError(
                f"{name} holds no {saved.name}, which says at what size it was trained: give --size"
            )
        size = OpenVision3ImageProcessor.from_pretrained(name).crop_size["height"]
    multiple = config.encoder_stride
    if size < multiple or size % multiple or size % config.decoder_stride:
        raise ValueError(
            f"a size of {size} pixels is no multiple of the encoder's {multiple} and the decoder's "
            f"{config.decoder_stride}"
        )
    model = UnifiedForPreTraining.from_pretrained(name, config=config, dtype=torch.float32).eval().to(where)
    crop = {"height": size, "width": size}
    processor = OpenVision3ImageProcessor(size={"shortest_edge": size}, crop_size=crop)
    return OpenedModel(name, model, size, processor)
