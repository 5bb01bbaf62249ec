"""Many questions to a multimodal model: loaded ahead, put together, encoded once, batched by token budget.

    answering = Answering(model, processor, settings)
    answering.answer(questions, done)   # done([(question, Answer or BrokenMediaError), ...]) a batch

Questions that generate alike are answered together, those about one clip next to one another.
"""

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .prompts import IMAGE, VIDEO, BrokenPrompt, Medium, Prompt, PromptLoader
from .questions import Answer, BrokenMediaError, Question
from .settings import Settings

Outcome = tuple[Question, Answer | BrokenMediaError]
# Patches that go through the encoder at once; more are encoded in several passes.
PATCHES_AT_ONCE = 1 << 16
# Prompts of a batch where only tokens are limited.
MOST_PROMPTS = 64
# No part of an answer, and spreadsheets (MMBench writes one) refuse them.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# The turn of a ChatML model ends with this, whatever its tokenizer calls the end of a text.
END_OF_TURN = "<|im_end|>"


class MediaFeatures:
    """Features of encoded media by key: the least recently used go first, never more than so many bytes.

    Args:
        limit: bytes; a tensor larger than that is not kept.

    Attributes: `size` (bytes held), `hits`, `misses`.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = self.hits = self.misses = 0
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> Tensor | None:
        found = self._held.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return found

    def put(self, key: str, features: Tensor) -> None:
        """Keep `features`, which must own its memory: a view would keep all that it is a view of."""
        self._drop(key)
        if features.nbytes > self.limit:
            return
        self._held[key] = features
        self.size += features.nbytes
        while self.size > self.limit:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        old = self._held.pop(key, None)
        if old is not None:
            self.size -= old.nbytes


def pack(lengths: Sequence[int], budget: int, limit: int | None = None) -> list[list[int]]:
    """Indices of `lengths` in batches, longest first, prompts of like length together.

    A batch costs its longest length times its number: `pack([700, 90, 710, 85], 1500)` is `[[2, 0], [1, 3]]`.

    Args:
        lengths: tokens of each prompt.
        budget: tokens of a batch, padding included; a prompt that is longer goes alone.
        limit: prompts of a batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        current = batches[-1] if batches else []
        fits = bool(current) and lengths[current[0]] * (len(current) + 1) <= budget
        if fits and (limit is None or len(current) < limit):
            current.append(index)
        else:
            batches.append([index])
    return batches


@dataclass
class Statistics:
    """Of all calls: questions answered, batches, media encoded, tokens, seconds in all and in waiting."""

    questions: int = 0
    batches: int = 0
    encoded: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __str__(self) -> str:
        waiting = self.waited / self.seconds if self.seconds else 0.0
        return (
            f"{self.questions} questions in {self.batches} batches, {self.encoded} media encoded, "
            f"{self.prompt_tokens} tokens read, {self.answer_tokens} written, {self.seconds:.1f} s, "
            f"{waiting:.0%} of it waiting for data"
        )


class Answering:
    """A model that answers questions in batches.

    Args:
        model: an `OneVisionVLForConditionalGeneration`, on its device.
        processor: its processor.
        settings: what is seen of media and how much goes at once.
    """

    def __init__(self, model: Any, processor: Any, settings: Settings):
        self.model, self.processor, self.settings = model, processor, settings
        self.cache = MediaFeatures(settings.feature_cache_mb << 20)
        self.statistics = Statistics()
        tokenizer = processor.tokenizer
        known = [tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_TURN)]
        stops = model.generation_config.eos_token_id
        known += stops if isinstance(stops, list) else [stops]
        self._stops = sorted({token for token in known if token is not None})
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else self._stops[0]

    def answer(self, questions: Sequence[Question], done: Callable[[list[Outcome]], None]) -> None:
        """Answer all, calling `done` after each batch, with each question once.

        Raises:
            ValueError: a prompt is longer than the language model's context.
        """
        limit = self.settings.batch_size or MOST_PROMPTS
        kwargs, workers = self.settings.processor_kwargs(self.processor), self.settings.workers
        loader = PromptLoader(self.processor, kwargs, workers, ahead=2 * min(limit, 8))
        began = time.perf_counter()
        for batch in self._batches(loader.load(_in_order(questions)), limit):
            if isinstance(batch, BrokenPrompt):
                done([(batch.question, batch.error)])
            else:
                self.statistics.batches += 1
                self.statistics.questions += len(batch)
                done(self._losses(batch) if batch[0].continuation is not None else self._texts(batch))
        self.statistics.seconds += time.perf_counter() - began
        self.statistics.waited += loader.waited

    def _batches(
        self, prompts: Iterable[Prompt | BrokenPrompt], limit: int
    ) -> Iterator[list[Prompt] | BrokenPrompt]:
        """Prompts of like length and kind together; a batch that is not full waits for more of its kind."""
        budget = self.settings.token_budget
        held: list[Prompt] = []
        for prompt in prompts:
            if isinstance(prompt, BrokenPrompt):
                yield prompt
                continue
            if held and _kind(held[0].question) != _kind(prompt.question):
                yield from _packed(held, budget, limit)
                held = []
            held.append(prompt)
            if len(held) >= 2 * limit or sum(each.length for each in held) >= 2 * budget:
                *full, held = _packed(held, budget, limit)
                yield from full
        yield from _packed(held, budget, limit)

    @torch.inference_mode()
    def _texts(self, batch: list[Prompt]) -> list[Outcome]:
        ids, mask = self._padded([prompt.ids for prompt in batch])
        generation = dict(batch[0].question.generation)
        sequences = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_encoder_outputs=self._features(batch) or None,
            eos_token_id=self._stops,
            pad_token_id=self._pad,
            **generation,
        )
        outcomes: list[Outcome] = []
        for prompt, sequence in zip(batch, sequences[:, ids.shape[1] :].tolist(), strict=True):
            end = next((i for i, token in enumerate(sequence) if token in self._stops), len(sequence))
            text = CONTROL.sub("", self.processor.tokenizer.decode(sequence[:end], skip_special_tokens=True))
            for stop in prompt.question.until:
                text = text.split(stop)[0]
            outcomes.append((prompt.question, self._count(prompt, Answer(text), end)))
        return outcomes

    @torch.inference_mode()
    def _losses(self, batch: list[Prompt]) -> list[Outcome]:
        """Cross-entropy, a mean over the continuation's tokens, which all prompts end with."""
        wanted = [prompt.continuation for prompt in batch]
        assert all(tokens is not None and len(tokens) for tokens in wanted)
        ids, mask = self._padded(
            [torch.cat([prompt.ids, tokens]) for prompt, tokens in zip(batch, wanted, strict=True)]  # type: ignore[list-item]
        )
        longest = max(len(tokens) for tokens in wanted if tokens is not None)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            mm_encoder_outputs=self._features(batch) or None,
            logits_to_keep=longest + 1,
            use_cache=False,
        ).logits
        outcomes: list[Outcome] = []
        for prompt, tokens, row in zip(batch, wanted, logits, strict=True):
            assert tokens is not None
            tokens = tokens.to(row.device)
            predicted = row[-len(tokens) - 1 : -1].float()
            loss = functional.cross_entropy(predicted, tokens).item()
            greedy = bool((predicted.argmax(-1) == tokens).all())
            outcomes.append(
                (prompt.question, self._count(prompt, Answer(loss=loss, greedy=greedy), len(tokens)))
            )
        return outcomes

    def _count(self, prompt: Prompt, answer: Answer, written: int) -> Answer:
        self.statistics.prompt_tokens += len(prompt.ids)
        self.statistics.answer_tokens += written
        return Answer(answer.text, answer.loss, answer.greedy, len(prompt.ids), written)

    def _padded(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
        """ids (B, L) padded on the left, and their mask."""
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(sequences):
            ids[number, longest - len(row) :] = row
            mask[number, longest - len(row) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _features(self, batch: list[Prompt]) -> dict[str, list[Tensor]]:
        """Embeddings of the batch's media by kind, in the prompts' order; the known are not encoded."""
        found: dict[str, Tensor] = {}
        missing: dict[str, Medium] = {}
        for medium in (medium for prompt in batch for medium in prompt.media):
            if medium.key in found or medium.key in missing:
                continue
            known = self.cache.get(medium.key)
            if known is not None:
                found[medium.key] = known
            else:
                missing[medium.key] = medium
        for kind in (IMAGE, VIDEO):
            media = [medium for medium in missing.values() if medium.kind == kind]
            for indices in pack([len(medium.patches) for medium in media], PATCHES_AT_ONCE):
                for index, features in zip(indices, self._encode([media[i] for i in indices]), strict=True):
                    found[media[index].key] = features
                    self.cache.put(media[index].key, features)
        self.statistics.encoded += len(missing)
        by_kind = {
            kind: [found[m.key] for prompt in batch for m in prompt.media if m.kind == kind]
            for kind in (IMAGE, VIDEO)
        }
        return {kind: items for kind, items in by_kind.items() if items}

    def _encode(self, media: list[Medium]) -> list[Tensor]:
        lengths = [len(medium.patches) for medium in media]
        patches = torch.cat([medium.patches for medium in media])
        positions = torch.cat([medium.positions for medium in media])
        kind, grids = media[0].kind, [medium.grid for medium in media if medium.grid is not None]
        inputs = {"pixel_values" if kind == IMAGE else "pixel_values_videos": patches}
        if grids:
            inputs |= {"patch_positions": positions, "image_grid_thw": torch.cat(grids)}
        else:
            bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
            inputs |= {f"{kind}_patch_positions": positions, f"{kind}_cu_seqlens": bounds}
        items = self.model.encode_media(**inputs)[kind].pooler_output
        if len(media) == len(items) == 1:
            return [items[0]]
        # Each on its own: one that stays would otherwise keep all of its neighbours.
        block = self.model.config.merge_size**2
        each = torch.cat(list(items)).split([length // block for length in lengths])
        return [features.clone() for features in each]


def _packed(held: list[Prompt], budget: int, limit: int) -> list[list[Prompt]]:
    return [[held[i] for i in indices] for indices in pack([each.length for each in held], budget, limit)]


def _kind(question: Question) -> str:
    """Questions of one kind may be in one batch."""
    return json.dumps([dict(question.generation), question.continuation is not None], sort_keys=True)


def _in_order(questions: Sequence[Question]) -> list[Question]:
    """Kinds together, then questions about one clip, each where the first of them stood."""
    kinds: dict[str, int] = {}
    clips: dict[tuple[str, ...], int] = {}
    for number, question in enumerate(questions):
        kinds.setdefault(_kind(question), number)
        if question.videos:
            clips.setdefault(question.videos, number)
    return [
        question
        for _, question in sorted(
            enumerate(questions),
            key=lambda each: (kinds[_kind(each[1])], clips.get(each[1].videos, each[0]), each[0]),
        )
    ]
