"""Where conversations about images and videos come from: rows in any order, each a list of messages.

| `source` | a row |
|---|---|
| .json (a list), .jsonl | LLaVA's: `conversations` of {"from", "value"}, `image`, `video`: a path or a list |
| a folder drawn by `onevision synth questions` | its question with the choices, its clip, and the letter |
| `hf:...` | `conversations` (LLaVA's) or `messages` ({"role", "content"}), and `image(s)`, `video(s)` |

In LLaVA's texts `<image>` and `<video>` stand for the media, in their order; without such marks the media
come first. Rows are small: media are paths or bytes until a sample is made of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..modeling.message_media import content_of, kind_of
from ..synthetic.manifest import NAME as MANIFEST
from ..synthetic.manifest import read_manifest
from .sources import MediaError, json_of, open_dataset, undecoded

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MARKS = re.compile(r"(<image>|<video>)\n?")


@dataclass(frozen=True)
class Conversation:
    """`messages` as `apply_chat_template` takes them; media are paths or bytes."""

    key: str
    messages: list[dict[str, Any]]


class Conversations:
    """Records by number, made messages when they are asked for."""

    def __init__(self, records: Sequence[Mapping[str, Any]], root: Path | None, name: str):
        self._records, self._root, self._name = records, root, name

    def __len__(self) -> int:
        return len(self._records)

    def part(self, numbers: Sequence[int]) -> "Conversations":
        """The rows of these numbers."""
        return Conversations([self._records[number] for number in numbers], self._root, self._name)

    def __getitem__(self, index: int) -> Conversation:
        """Raises MediaError for a record that is no conversation."""
        record = self._records[int(index)]
        key = str(record.get("id") or f"{self._name}/{int(index):07d}")
        try:
            return Conversation(key, as_messages(record, self._root))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MediaError(f"{key} is no conversation in a known layout: {error}") from error


def open_conversations(source: str, media_root: str = "") -> Conversations:
    """Open a source of conversations.

    Raises:
        FileNotFoundError: nothing is there. ValueError: what is there holds no conversations.
    """
    root = Path(media_root) if media_root else None
    if source.startswith("hf:"):
        return Conversations(_undecoded(open_dataset(source[3:])), root, source[3:])
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise ValueError(f"{source} is a folder that `onevision synth questions` did not draw")
        return Conversations(_drawn(path), root or path, path.name)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            records = [json_of(line) for line in text.splitlines() if line.strip()]
        else:
            records = json_of(text)
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    if not isinstance(records, list) or not records or not all(isinstance(r, dict) for r in records):
        raise ValueError(f"{source} must be a list of objects in LLaVA's layout, or a line for each")
    return Conversations(records, root or path.parent, path.stem)


def as_messages(record: Mapping[str, Any], root: Path | None) -> list[dict[str, Any]]:
    """A record in one of the layouts -> messages whose media have places."""
    waiting = {kind: [_resolve(m, root) for m in _media(record, kind)] for kind in ("image", "video")}
    turns = record.get("conversations") or record.get("messages") or []
    if not turns:
        raise ValueError("it has neither `conversations` nor `messages`")
    messages = []
    for turn in turns:
        role = ROLES[turn.get("from") or turn["role"]]
        content = turn.get("value", turn.get("content"))
        if role == "user" or isinstance(content, list):
            content = _parts(content, waiting)
        messages.append({"role": role, "content": content})
    left = [{"type": kind, kind: medium} for kind, own in waiting.items() for medium in own]
    if left:
        first = next(message for message in messages if message["role"] == "user")
        placed = any(part["type"] != "text" for message in messages for part in _listed(message))
        if placed:
            raise ValueError(f"{len(left)} media have no mark in its text")
        first["content"] = [*left, *first["content"]]
    return messages


def _listed(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return message["content"] if isinstance(message["content"], list) else []


def _parts(content: Any, waiting: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Text with marks, or parts that say only of which kind they are -> parts with their media."""
    if isinstance(content, str):
        pieces = _MARKS.split(content)
        found: list[dict[str, Any]] = []
        for piece in pieces:
            if piece in ("<image>", "<video>"):
                found.append(_next(piece.strip("<>"), waiting))
            elif piece:
                found.append({"type": "text", "text": piece})
        return found
    parts = []
    for part in content:
        kind = kind_of(part)
        given = kind == "text" or content_of(part) is not None
        parts.append({k: v for k, v in part.items() if v is not None} if given else _next(kind, waiting))
    return parts


def _next(kind: str, waiting: dict[str, list[Any]]) -> dict[str, Any]:
    # Published records of videos say <image> where the video goes.
    found = kind if waiting[kind] else "video" if kind == "image" and waiting["video"] else None
    if found is None:
        raise ValueError(f"its text has more marks <{kind}> than it has media")
    return {"type": found, found: waiting[found].pop(0)}


def _media(record: Mapping[str, Any], kind: str) -> list[Any]:
    found = record.get(kind) if record.get(kind) is not None else record.get(f"{kind}s")
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _resolve(medium: Any, root: Path | None) -> Any:
    """A path under the root; of a dataset's struct the bytes, or its path."""
    if isinstance(medium, Mapping):
        medium = medium.get("bytes") or medium.get("path")
    if medium is None:
        raise ValueError("a medium has neither bytes nor a path")
    if isinstance(medium, str) and root is not None and not re.match(r"data:|\w+://", medium):
        return str(root / medium)
    return medium


def _undecoded(dataset: Any) -> Any:
    """The dataset with bytes and paths instead of pictures and frames."""
    dataset = undecoded(dataset, dataset.features or ())
    known = set(dataset.column_names)
    if not known & {"conversations", "messages"}:
        raise ValueError(
            "a dataset to train from has a column `conversations` or `messages`; this one has "
            f"{sorted(known)}"
        )
    return dataset


def _drawn(folder: Path) -> list[dict[str, Any]]:
    """Rows of a drawn folder's manifest in LLaVA's layout."""
    table = read_manifest(folder)
    names = ("path", "question", "choices", "answer")
    if not set(names) <= set(table.column_names):
        raise ValueError(f"{folder} holds no questions: draw it with `onevision synth questions`")
    records = []
    for row in table.select([*names, "id"]).to_pylist():
        choices = [f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", row["choices"], strict=False)]
        text = "\n".join(["<video>", row["question"], *choices])
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": row["answer"]}]
        records.append({"id": row["id"], "video": row["path"], "conversations": turns})
    return records
