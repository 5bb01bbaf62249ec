"""Answers on disk as they are given, so that a killed evaluation loses at most the batch it was in.

    with Journal(folder, rank=0) as journal:
        key = request_key(task="videomme", split="test", document=..., prompt=..., ...)
        if (answer := journal.get(key)) is None:
            journal.write([Entry(key, "videomme", 17, "B")])     # flushed and synced before it returns

`answers-RANK.jsonl` holds a line an answer. A process appends to its own file and reads those of all at the
start, so a run may go on with another number of processes. What a kill left of a last line is cut off.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .run_folder import digest_of, open_locked

ANSWERS = "answers-{rank}.jsonl"


@dataclass(frozen=True)
class Entry:
    """One answer.

    Attributes:
        key: of the request, by `request_key`.
        task, doc_id: for people who read the file.
        answer: text, a list of texts (one a round), or [loss, greedy] of a log-likelihood.
        tokens: of the prompt with its media, then of the answer.
    """

    key: str
    task: str
    doc_id: int
    answer: Any
    tokens: tuple[int, int] = (0, 0)


def request_key(
    *,
    task: str,
    split: str,
    document: Any,
    prompt: Any,
    generation: Mapping[str, Any],
    model: str,
    selection: Mapping[str, Any],
    repeat: int = 0,
) -> str:
    """What makes an answer this one: the same question to the same model, seen the same way.

    Args:
        task: its name.
        split: of the task's data.
        document: its number and its plain fields (no media).
        prompt: what the model reads as text.
        generation: the arguments of generation.
        model: the fingerprint of the weights, see `fingerprint`.
        selection: the settings that choose frames and patches, and the number format.
        repeat: which of several answers to the same question.
    """
    return digest_of(
        [
            {"task": task, "split": split, "document": document, "prompt": prompt, "repeat": repeat},
            {"generation": dict(generation), "model": model, "selection": dict(selection)},
        ]
    )


class Journal:
    """The answers of a folder, open for appending by one process of each rank.

    Raises:
        ValueError: another process of this rank has the folder open.
    """

    def __init__(self, folder: str | Path, rank: int = 0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / ANSWERS.format(rank=rank)
        busy = f"{self.folder} is being written by another evaluation; wait for it or choose another folder"
        self._file = open_locked(self.path, "ab", busy)
        self._cut_torn_line()
        self._entries: dict[str, Entry] = {}
        for path in sorted(self.folder.glob(ANSWERS.format(rank="*"))):
            self._read(path)

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def _read(self, path: Path) -> None:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # another rank may be writing its last one
                fields = json.loads(line)
                self._entries[fields["key"]] = Entry(**fields | {"tokens": tuple(fields["tokens"])})

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def write(self, entries: Iterable[Entry]) -> None:
        """Append; when this returns the lines are on the disk."""
        entries = list(entries)
        if not entries:
            return
        text = "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._entries.update({entry.key: entry for entry in entries})

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fingerprint(folder: Path) -> str:
    """A digest of everything in a model's folder that can change an answer: weights, settings, texts, code.

    Raises:
        ValueError: the folder has no configuration.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder of a model: it has no config.json")
    kinds = {".safetensors", ".bin", ".json", ".jinja", ".txt", ".model", ".py"}
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()
