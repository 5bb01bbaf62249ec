"""The model `onevision` of lmms-eval, for its chat protocol and its simple one.

python -m lmms_eval --model onevision --model_args pretrained=DIR,sampling=codec --tasks videomme
python -m torch.distributed.run --nproc_per_node 2 -m lmms_eval --model onevision ...

Every answer is in the journal before the next batch begins; what is there is not generated again. `broken`
lists the questions whose media could not be read, and how they count.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from ...jobs.journal import Entry, Journal, fingerprint, request_key
from .answering import Answering, Outcome
from .questions import (
    BrokenMediaError,
    BrokenQuestion,
    Conversation,
    Documents,
    Question,
    chat_messages,
    needs_media,
    split_generation,
    task_of,
    visual_messages,
    with_videos,
)
from .settings import Settings, join_processes, local_folder
from .suite import LMMS_EVAL, row_of

BROKEN = "broken-{rank}.jsonl"
# A task that never says that it is done would go on for ever.
MOST_ROUNDS = 100


class EvaluationStopped(ValueError):
    """A question's media are broken, and on_error=stop."""


@dataclass
class Parts:
    """What a request of either protocol holds; `text` is the task's question, `messages` gives all of it."""

    text: str
    messages: Callable[[], Conversation]
    owner: Any
    doc_id: int
    task: str
    split: str


@dataclass(eq=False)
class Pending:
    """A request on its way: its question, and then its entry; `broken` where that is made up."""

    request: Any
    parts: Parts
    question: Question
    key: str
    entry: Entry | None = None
    broken: bool = False

    @property
    def answer(self) -> Any:
        assert self.entry is not None
        return self.entry.answer


class OneVision(lmms):
    """What both protocols have. Arguments: those of `Settings`.

    Attributes: `broken` (list of `BrokenQuestion`), `reused` (answers found in the journal), `fingerprint`,
    `answering`.

    Raises:
        ValueError: an argument that is unknown or out of range; a folder that is no model; processes that did
            not find one another.
    """

    def __init__(self, **arguments: Any):
        super().__init__()
        # Task files are read after this; several look for videos in HF_HOME, which they take to be set.
        os.environ.setdefault("HF_HOME", HF_HOME)
        self.settings = settings = Settings.parse(arguments)
        self.accelerator = join_processes()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = torch.device(settings.device or self.accelerator.device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", self.accelerator.local_process_index)
        folder = local_folder(settings.pretrained)
        self.fingerprint = fingerprint(folder)
        self.answering = Answering(*settings.load(folder, self._device), settings)
        where = settings.journal_folder(self.fingerprint, self.answering.processor)
        self.journal = None if where is None else Journal(where, self._rank)
        if where is not None:
            (where / BROKEN.format(rank=self._rank)).unlink(missing_ok=True)
        self._answers: dict[str, Entry] = {}
        self.broken: list[BrokenQuestion] = []
        self.reused = 0

    @property
    def device(self) -> torch.device:
        return self._device

    # -- what lmms-eval calls --

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        pending = []
        for request, repeat in zip(requests, _repeats(requests), strict=True):
            parts, generation = self._parts(request)
            settings, until = self._generation(generation)
            pending.append(self._pending(request, parts, parts.text, settings, until, repeat))
        self._answer(pending)
        return [_result(item) for item in pending]

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """(mean loss, whether greedy decoding gives it) of each answer; lmms-eval takes the least loss.

        Each pair is the `text` of a result, since lmms-eval 0.7.3 makes strings of plain pairs.
        """
        pending = []
        for request in requests:
            if len(request.args) != 6:
                raise ValueError("the task asks for the loss of an answer without a question: not supported")
            text, target, doc_to_visual, doc_id, task, split = request.args
            parts = self._visual_parts(text, doc_to_visual, doc_id, task, split)
            wanted = target(self._document(parts)) if callable(target) else target
            # The turn of the assistant begins on a line of its own.
            pending.append(self._pending(request, parts, [text, wanted], {}, (), 0, str(wanted).strip()))
        self._answer(pending)
        return [GenerationResult((float(item.answer[0]), bool(item.answer[1]))) for item in pending]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of each request, one a round, until its task is done; rounds of all go side by side."""
        outputs: list[list[str]] = [[] for _ in requests]
        notes: list[Any] = [None] * len(requests)
        active, repeats = list(range(len(requests))), _repeats(requests)
        for number in range(MOST_ROUNDS + 1):
            pending: dict[int, Pending] = {}
            for index in active:
                parts, generation = self._parts(requests[index])
                if number:
                    found = self._next_round(requests[index], number, outputs[index], notes[index])
                    if found is None:
                        continue
                    messages, notes[index] = found
                    parts.messages = lambda messages=messages: messages  # type: ignore[misc]
                prompt = [parts.text, number, outputs[index]]
                settings, until = self._generation(generation)
                pending[index] = self._pending(
                    requests[index], parts, prompt, settings, until, repeats[index]
                )
            self._answer(list(pending.values()))
            for index, item in pending.items():
                outputs[index].append(item.answer)
            active = [index for index, item in pending.items() if not item.broken]
            if not active:
                return outputs
        raise ValueError(f"a task goes on for more than {MOST_ROUNDS} rounds: it never says that it is done")

    # -- the protocols --

    def _parts(self, request: Any) -> tuple[Parts, dict[str, Any]]:
        """The request's parts and its generation_kwargs."""
        raise NotImplementedError

    def _next_round(self, request: Any, number: int, outputs: list[str], note: Any) -> Any:
        """(conversation, note for the round after), or None when the task is done."""
        function, document = self._asked(request)
        found = function(document, round_idx=number, previous_output=list(outputs), previous_round_info=note)
        return self._round(found) if isinstance(found, tuple) else None

    def _asked(self, request: Any) -> tuple[Callable[..., Any], Any]:
        """What a request of several rounds calls in each, and its document."""
        raise NotImplementedError

    def _round(self, found: tuple) -> Any:
        """See `_next_round`, of what that function gave."""
        raise NotImplementedError

    def _visual_parts(self, text: str, doc_to_visual: Any, doc_id: int, task: str, split: str) -> Parts:
        def messages() -> Conversation:
            return visual_messages(text, doc_to_visual(self._documents[task, split, doc_id]))

        return Parts(text, messages, task_of(doc_to_visual), doc_id, task, split)

    # -- from requests to answers --

    @property
    def _documents(self) -> Documents:
        if not hasattr(self, "_read_documents"):
            self._read_documents = Documents(self.task_dict)
        return self._read_documents

    def _document(self, parts: Parts) -> Any:
        return self._documents[parts.task, parts.split, parts.doc_id]

    def _generation(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        return split_generation(arguments, self.settings.max_new_tokens)

    def _pending(
        self,
        request: Any,
        parts: Parts,
        prompt: Any,
        generation: dict[str, Any],
        until: tuple[str, ...],
        repeat: int,
        continuation: str | None = None,
    ) -> Pending:
        key = request_key(
            task=parts.task,
            split=parts.split,
            document=[parts.doc_id, self._documents.plain(parts.task, parts.split, parts.doc_id)],
            prompt=prompt,
            generation={**generation, "until": list(until), "loss": continuation is not None},
            model=self.fingerprint,
            selection={
                **self.settings.answer_settings(self.answering.processor),
                "protocol": type(self).__name__,
                "lmms_eval": LMMS_EVAL,
            },
            repeat=repeat if generation.get("do_sample") else 0,
        )
        question = Question(
            parts.messages,
            generation,
            until,
            continuation,
            needs_media=needs_media(parts.task),
        )
        return Pending(request, parts, question, key)

    def _answer(self, pending: Sequence[Pending]) -> None:
        """Fill in the entries: from the journal, by asking the model, by what broken media count as."""
        wanted: dict[str, list[Pending]] = {}
        before = self.reused
        for item in pending:
            known = self._known(item.key)
            if known is not None:
                item.entry = known
                self.reused += 1
            elif _is_padding(item.request) and item.key not in wanted:
                item.entry = Entry(item.key, item.parts.task, item.parts.doc_id, "")  # nobody reads it
            else:
                wanted.setdefault(item.key, []).append(item)
        if self.reused > before and self._rank == 0 and self.journal is not None:
            logger.info(f"onevision: {self.reused - before} answers are read from {self.journal.folder}")

        questions = []
        for items in wanted.values():
            first = items[0]
            first.question.tag = items
            try:
                if not self._documents.has_pictures(first.parts.task, first.parts.split):
                    with_videos(first.question)
                questions.append(first.question)
            except BrokenMediaError as error:
                self._take([(first.question, error)])
        with tqdm(total=len(questions), desc="onevision", disable=self._rank != 0) as progress:

            def done(outcomes: list[Outcome]) -> None:
                self._take(outcomes)
                progress.update(len(outcomes))

            self.answering.answer(questions, done)
        if questions and self._rank == 0:
            logger.info(f"onevision: {self.answering.statistics}")

    def _known(self, key: str) -> Entry | None:
        return self._answers.get(key) if self.journal is None else self.journal.get(key)

    def _take(self, outcomes: list[Outcome]) -> None:
        """A batch's answers go to the disk, then to the requests that wait for them."""
        entries = []
        for question, outcome in outcomes:
            items: list[Pending] = question.tag
            place = (items[0].key, items[0].parts.task, items[0].parts.doc_id)
            if isinstance(outcome, BrokenMediaError):
                # Not into the journal: mended media are read the next time.
                for item in items:
                    item.entry, item.broken = Entry(*place, self._answer_broken(item, outcome)), True
                continue
            answer = [outcome.loss, outcome.greedy] if outcome.loss is not None else outcome.text
            entry = Entry(*place, answer, (outcome.prompt_tokens, outcome.answer_tokens))
            entries.append(entry)
            for item in items:
                item.entry = entry
        if self.journal is None:
            self._answers.update({entry.key: entry for entry in entries})
        else:
            self.journal.write(entries)

    def _answer_broken(self, item: Pending, error: BrokenMediaError) -> Any:
        """What is given in place of an answer, by on_error; the question goes on the list."""
        parts = item.parts
        if _is_padding(item.request):
            return ""
        if self.settings.on_error == "stop":
            raise EvaluationStopped(
                f"{parts.task}, question {parts.doc_id}: {error}; mend it, or count such questions as wrong "
                "or leave them out (on_error=wrong, on_error=skip)"
            ) from error
        skipped = self.settings.on_error == "skip" and hasattr(parts.owner, "instances")
        if skipped:  # lmms-eval leaves out documents that have no requests
            own = parts.owner.instances
            own[:] = [request for request in own if request is not item.request]
        self.broken.append(
            BrokenQuestion(
                parts.task, parts.doc_id, error.media, error.reason, "skipped" if skipped else "wrong"
            )
        )
        logger.warning(
            f"onevision: {parts.task}, question {parts.doc_id} counts as {self.broken[-1].counted}: {error}"
        )
        if self.journal is not None:
            with open(self.journal.folder / BROKEN.format(rank=self._rank), "a", encoding="utf-8") as file:
                file.write(json.dumps(vars(self.broken[-1])) + "\n")
        if item.question.continuation is not None:
            return [float(_is_right(item, self._document(parts))), False]
        row = row_of(parts.task)
        return "" if row is None else row.wrong(self._documents.plain(parts.task, parts.split, parts.doc_id))


class OneVisionChat(OneVision):
    """For requests that hold messages; lmms-eval prefers it."""

    is_simple = False

    def _parts(self, request: Any) -> tuple[Parts, dict[str, Any]]:
        text, doc_to_messages, generation, doc_id, task, split = request.args

        def messages() -> Conversation:
            return chat_messages(doc_to_messages(self._documents[task, split, doc_id]))

        return Parts(text, messages, task_of(doc_to_messages), doc_id, task, split), generation

    def _asked(self, request: Any) -> tuple[Callable[..., Any], Any]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        return doc_to_messages, self._documents[task, split, doc_id]

    def _round(self, found: tuple) -> Any:
        return None if found[1] else (chat_messages(found[0]), found[3])


class OneVisionSimple(OneVision):
    """For requests that hold text and visuals; `--force_simple` takes it, and tasks that ask for losses need
    it."""

    is_simple = True

    def _parts(self, request: Any) -> tuple[Parts, dict[str, Any]]:
        text, generation, doc_to_visual, *_, doc_id, task, split = request.args
        return self._visual_parts(text, doc_to_visual, doc_id, task, split), generation

    def _asked(self, request: Any) -> tuple[Callable[..., Any], Any]:
        _, _, _, doc_to_text, doc_id, task, split = request.args
        return doc_to_text, self._documents[task, split, doc_id]

    def _round(self, found: tuple) -> Any:
        return None if found[2] else (visual_messages(found[1], found[0]), found[4])


def _is_padding(request: Any) -> bool:
    """lmms-eval evens out the processes with requests whose answers nobody reads."""
    return bool((request.metadata or {}).get("__padding_only__"))


def _repeats(requests: Sequence[Any]) -> list[int]:
    """lmms-eval asks several times by giving a request several times: which time this is."""
    seen: Counter[int] = Counter()
    numbers = []
    for request in requests:
        numbers.append(seen[id(request)])
        seen[id(request)] += 1
    return numbers


def _result(item: Pending) -> GenerationResult:
    assert item.entry is not None
    read, written = item.entry.tokens
    return GenerationResult(item.answer, TokenCounts(input_tokens=read, output_tokens=written))


def _is_right(item: Pending, document: Any) -> bool:
    """Whether a continuation is the document's answer: the one that must not have the least loss."""
    owner = item.parts.owner
    if owner is None:
        return True
    target = owner.doc_to_target(document)
    return str(target).strip() in (str(item.request.idx), item.question.continuation)
