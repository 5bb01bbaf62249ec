"""Media of vLLM's requests -> tokens and patches, by the model's own processor.

vLLM hands over the media of a request and the prompt as tokens; the processor reads each medium with the
settings of the server (`--mm-processor-kwargs`) and of the request (`mm_processor_kwargs`), one at a time, so
that vLLM can cache each by its content and these settings. What stands for a medium in the prompt is the
processor's own text, so the tokens are those of `apply_chat_template`.

Shapes: sum N patches of all items of a kind, C channels, p patch side.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo
from vllm.transformers_utils.processor import cached_get_processor

from ..modeling.frame_sequence import is_frames, pair_of
from ..modeling.multimodal_features import window_bounds
from ..modeling.processing_llava_onevision2 import END, START, LlavaOnevision2Processor, ShownMedium
from ..modeling.processing_onevision_vl import OneVisionVLProcessor
from ..modeling.prompt_media import is_unreadable
from ..modeling.url_access import URL_SETTINGS
from ..modeling.video_processing_llava_onevision2 import OF_FRAMES
from ..modeling.written_text import ControlTokens, encode

KINDS = ("image", "video")
# Whoever asks does not say what this machine fetches, or where it writes.
BARRED = {*URL_SETTINGS, "canvas_cache"}
# (height, width) of pictures that are larger than processors leave them, in many shapes.
SIDE = 448  # of blank media
MANY = 100_000  # frames, more than are sampled
LARGE = tuple((1024 * h, 1024 * w) for h in range(1, 9) for w in range(1, 9))


class MediaItems(ProcessorBatchItems):
    """Media of one kind, as they came."""

    def get_processor_data(self) -> Mapping[str, object]:
        return {f"{self.modality}s": self.get_all()}


class MediaParser(MultiModalDataParser):
    """Images and videos as our processors take them: files as their bytes, or what was decoded elsewhere."""

    def _parse_image_data(self, data: Any) -> Any:
        return _items(data, "image")

    def _parse_video_data(self, data: Any) -> Any:
        return _items(data, "video")


def _items(data: Any, kind: str) -> MediaItems | None:
    if data is None:
        return None
    one = not isinstance(data, list | tuple) or pair_of(data) is not None
    one = one or (kind == "video" and is_frames(data))
    return MediaItems([_content(medium) for medium in ([data] if one else data)], kind)


def _content(medium: Any) -> Any:
    """The bytes of a file, which vLLM then tells it by; else the medium itself."""
    if isinstance(medium, MediaWithBytes):
        decoded = medium.media
        if not isinstance(decoded, tuple) or decoded[0] is None:
            return medium.original_bytes
        if decoded[1].get("video_backend") != "jpeg_sequence":  # which is what has no file
            raise VLLMValidationError(
                "a video was decoded by vLLM, as media_io_kwargs name another video_backend: the model's "
                "processor reads the file, give its settings in mm_processor_kwargs",
                parameter="video",
            )
        return decoded
    if isinstance(medium, str | os.PathLike):
        return Path(medium).read_bytes()
    return medium


class Info(BaseProcessingInfo):
    """The processor of a folder and the settings that media are read with."""

    def get_hf_processor(self, **kwargs: object) -> OneVisionVLProcessor:
        """The folder's processor as it was saved; settings go with each medium."""
        config = self.ctx.model_config
        return cached_get_processor(
            config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )

    def get_data_parser(self) -> MultiModalDataParser:
        return MediaParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return dict.fromkeys(KINDS)

    @property
    def is_published(self) -> bool:
        """Whether videos are images to the model, under the published names."""
        return isinstance(self.get_hf_processor(), LlavaOnevision2Processor)

    def settings(self, asked: Mapping[str, object] = {}) -> dict[str, Any]:
        """Settings of the server with those of a request, and codec input where neither says otherwise.

        Args:
            asked: by a request.

        Raises:
            VLLMValidationError: the request names what only the server may.
        """
        own = self.ctx.model_config.get_multimodal_config().mm_processor_kwargs or {}
        for name, value in asked.items():
            theirs = value if isinstance(value, Mapping) else {name: value}
            mine = own if theirs is not value else own.get(name) or {}
            for setting in BARRED & theirs.keys():
                if setting not in mine or mine[setting] != theirs[setting]:
                    raise VLLMValidationError(
                        f"{setting} is the server's to set (--mm-processor-kwargs), found it in a request",
                        parameter="mm_processor_kwargs",
                    )
        settings = self.ctx.get_merged_mm_kwargs(asked)
        named = {**settings, **settings.get("videos_kwargs", {})}
        if self.is_published and not {"preset", *OF_FRAMES} & named.keys():
            settings["preset"] = self.get_hf_processor().video_processor.preset or "ov2"
        return settings

    def embed_token_id(self, kind: str) -> int:
        """The token whose places the features of a kind take."""
        processor = self.get_hf_processor()
        return processor.image_token_id if kind == "image" or self.is_published else processor.video_token_id

    def most_tokens(self, kind: str) -> int | None:
        """Of one medium with the server's settings; None where its content decides."""
        processor, settings = self.get_hf_processor(), self.settings()
        settings.pop("add_timestamps", None)  # the stamps are text
        if kind == "video" and settings.get("preset"):
            return None  # how many canvases there are is known once they are chosen
        counts = []
        for size in LARGE:
            sizes = {f"{kind}_sizes": [size if kind == "image" else (MANY, *size)]}
            with contextlib.suppress(ValueError):  # a size of which this budget is refused
                counts += processor._get_num_multimodal_tokens(**sizes, **settings)[f"num_{kind}_tokens"]
        return max(counts, default=None)

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        """What vLLM plans for: the processor's counts, and never more than a prompt may hold.

        Args:
            seq_len: tokens of the longest prompt.
            mm_counts: kinds that are asked about.
        """
        return {kind: min(seq_len, self.most_tokens(kind) or seq_len) for kind in mm_counts}


class DummyInputs(BaseDummyInputsBuilder[Info]):
    """Blank media, with which vLLM measures its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        processor = self.info.get_hf_processor()
        tokens = {"image": processor.image_token, "video": processor.video_token}
        return "".join(tokens[kind] * count for kind, count in mm_counts.items())

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any
    ) -> dict[str, Any]:
        """Blank pictures, and videos of as many frames as the processor takes.

        Args:
            seq_len: tokens of the longest prompt.
            mm_counts: media of each kind.
            mm_options: sizes that the server was told to plan for.
        """
        images = self._get_dummy_images(
            width=SIDE, height=SIDE, num_images=mm_counts.get("image", 0), overrides=mm_options.get("image")
        )
        videos = self._get_dummy_videos(
            width=SIDE, height=SIDE, num_frames=self._frames(seq_len), num_videos=mm_counts.get("video", 0),
            overrides=mm_options.get("video"),
        )  # fmt: skip
        times = {"fps": 1.0}
        return {"image": images, "video": [(video, times) for video in videos]}

    def _frames(self, seq_len: int) -> int:
        """Of a blank video: as many as are sampled, or, where all of them are shown, as fit into a prompt."""
        processor, settings = self.info.get_hf_processor(), self.info.settings()
        settings.pop("add_timestamps", None)
        if not self.info.is_published:
            config = processor.video_processor.patchify_config(**processor._split(settings)[2])
            return config.sampling.num_sampled(MANY)
        tokens = processor._get_num_multimodal_tokens(image_sizes=[(SIDE, SIDE)])["num_image_tokens"][0]
        return max(1, min(64, seq_len // tokens))


class MediaProcessor(BaseMultiModalProcessor[Info]):
    """Reads media with our processor and puts their text into the prompt."""

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """All media, read: of each kind patches, positions, the lengths of attention windows, the tokens that
        stand for it in the prompt, and how many there are of each an item."""
        settings = self.info.settings(hf_kwargs)
        stamped = settings.pop("add_timestamps", None)
        found: dict[str, Any] = {}
        for kind, items in mm_items.items():
            if len(items):
                read = [self._read(kind, medium, settings, stamped) for medium in items.get_all()]
                for name in read[0]:
                    found[f"{kind}_{name}"] = torch.cat([one[name] for one in read])
                    found[f"{kind}_{name}_sizes"] = torch.tensor([len(one[name]) for one in read])
        return BatchFeature(found)

    def _read(self, kind: str, medium: Any, settings: dict[str, Any], stamped: bool | None) -> dict[str, Any]:
        processor = self.info.get_hf_processor()
        try:
            read = getattr(processor, f"read_{kind}")(medium, **settings)
            single = {
                f"{one}s" if one == "image" else "clips": [read] if one == kind else [] for one in KINDS
            }
            token = processor.image_token if kind == "image" else processor.video_token
            text = processor.expanded(token, **single, stamped=stamped)
        except (ValueError, TypeError, OSError) as error:
            what = f"a {kind} cannot be read: " if is_unreadable(error) else ""
            raise VLLMValidationError(
                f"{what}{str(error) or type(error).__name__}".splitlines()[0], parameter=kind
            ) from error
        patches, positions, windows = _packed(read, self.info.get_hf_config().frame_windows_size)
        return {
            "patches": patches.to(self.info.ctx.model_config.dtype),
            "positions": positions,
            "windows": windows,
            "text": torch.tensor(encode(processor.tokenizer, text)),
        }

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields: dict[str, MultiModalFieldConfig] = {}
        for kind in KINDS:
            for name in ("patches", "positions", "windows", "text"):
                sizes = hf_inputs.get(f"{kind}_{name}_sizes")
                if sizes is not None:
                    fields[f"{kind}_{name}"] = MultiModalFieldConfig.flat_from_sizes(kind, sizes)
                    fields[f"{kind}_{name}_sizes"] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.get_hf_processor()
        tokens = {"image": processor.image_token_id, "video": processor.video_token_id}

        def replacement(kind: str) -> PromptReplacement:
            def text(index: int) -> PromptUpdateDetails:
                ids = out_mm_kwargs[kind][index][f"{kind}_text"].data.tolist()
                return PromptUpdateDetails.select_token_id(ids, self.info.embed_token_id(kind))

            return PromptReplacement(modality=kind, target=[tokens[kind]], replacement=text)

        return [replacement(kind) for kind in mm_items]

    def _apply_prompt_updates(
        self, token_ids: list[int], mm_prompt_updates: Mapping[str, Any]
    ) -> tuple[list[int], Mapping[str, list[PlaceholderFeaturesInfo]]]:
        """The prompt with the text of its media, and the places of their features.

        What stands beside a medium is tokenized together with the medium's text, as it is where the whole
        prompt is one text. Turns without media stay the tokens that they are.
        """
        processor = self.info.get_hf_processor()
        kinds = {processor.image_token_id: "image", processor.video_token_id: "video"}
        order = [kinds[token] for token in token_ids if token in kinds]
        ids_of = {kind: [own[0].content.full for own in items] for kind, items in mm_prompt_updates.items()}
        for kind in KINDS:
            if order.count(kind) != len(ids_of.get(kind, ())):
                raise VLLMValidationError(
                    f"the prompt has {order.count(kind)} tokens that stand for a {kind} and "
                    f"{len(ids_of.get(kind, ()))} {kind}s came with it; one that is typed counts too",
                    parameter=kind,
                )
        texts: dict[str, Iterator[str]] = {
            getattr(processor, f"{kind}_token"): map(processor.tokenizer.decode, ids_of.get(kind, ()))
            for kind in KINDS
        }
        expanded: list[int] = []
        for turn in self._turns(token_ids):
            held = any(token in kinds for token in turn)
            expanded += self._with_media(turn, texts) if held else turn
        return expanded, self._places(expanded, order, ids_of)

    def _turns(self, token_ids: list[int]) -> Iterator[list[int]]:
        """A prompt in pieces, cut before and behind control tokens that begin or end a turn."""
        processor = self.info.get_hf_processor()
        inner = {processor.image_token, processor.video_token, START, END}
        turn: list[int] = []
        for token in token_ids:
            control = processor.tokenizer.added_tokens_decoder.get(token)
            if control is not None and control.content not in inner:
                yield from (turn, [token])
                turn = []
            else:
                turn.append(token)
        yield turn

    def _with_media(self, turn: list[int], texts: dict[str, Iterator[str]]) -> list[int]:
        processor = self.info.get_hf_processor()
        tokenizer = processor.tokenizer
        control, special = (
            ControlTokens(tokenizer, str(processor.chat_template)),
            tokenizer.added_tokens_decoder,
        )
        written = ""
        for is_special, run in _runs(turn, special):
            # What decodes to a control token here was typed.
            text = tokenizer.decode(run, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            written += text if is_special else control.broken(text)
        return encode(tokenizer, processor._expand(written, texts))

    def _places(
        self, token_ids: list[int], order: list[str], ids_of: Mapping[str, list[list[int]]]
    ) -> dict[str, list[PlaceholderFeaturesInfo]]:
        """Of each medium, in the order of the prompt, from its first to its last feature."""
        embeds = {kind: self.info.embed_token_id(kind) for kind in KINDS}
        at = {
            token: iter([i for i, own in enumerate(token_ids) if own == token]) for token in embeds.values()
        }
        waiting = {kind: iter(enumerate(items)) for kind, items in ids_of.items()}
        places: dict[str, list[PlaceholderFeaturesInfo]] = {kind: [] for kind in ids_of}
        for kind in order:
            index, text = next(waiting[kind])
            token = embeds[kind]
            own = [next(at[token]) for _ in range(text.count(token))]
            span = token_ids[own[0] : own[-1] + 1]
            mask = torch.tensor(span) == token
            places[kind].append(PlaceholderFeaturesInfo(kind, index, own[0], span, mask))
        return places


def _runs(token_ids: list[int], special: Mapping[int, Any]) -> Iterator[tuple[bool, list[int]]]:
    """Tokens as runs of ordinary ones and single special ones."""
    run: list[int] = []
    for token in token_ids:
        if token in special:
            if run:
                yield False, run
            yield True, [token]
            run = []
        else:
            run.append(token)
    if run:
        yield False, run


def _packed(read: Any, frames: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches (N, C*p*p), positions (N, 3) and lengths of attention windows of a medium that was read.

    Args:
        read: what the processor made of it.
        frames: of a window, where the medium has a grid.
    """
    if isinstance(read, ShownMedium):
        return read.patches, read.positions, window_bounds(read.grid, frames).diff()
    patches, positions = (
        read if isinstance(read, tuple) else map(torch.from_numpy, (read.patches, read.positions))
    )
    return patches, positions, torch.tensor([len(patches)], dtype=torch.int32)


__all__ = ["DummyInputs", "Info", "MediaProcessor"]
