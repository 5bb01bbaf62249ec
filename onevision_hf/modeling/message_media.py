"""Media in the parts of a message: under any of the usual keys, each with settings of its own.

{"type": "video", "video": "clip.mp4", "fps": 2, "max_frames": 64, "video_start": 3.5}
{"type": "video", "video": ["f1.jpg", "f2.jpg"], "sample_fps": 2}       # a list in a part is one clip
{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}

Names are ours, transformers' and those of qwen-vl-utils. A key that nobody knows is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .embedded_media import decode_base64, is_cell
from .frame_sequence import is_frames, pair_of
from .patchify_config import laid_on_top
from .setting_names import refuse_unknown

# The kinds of parts that hold media, as transformers and OpenAI call them.
KINDS = {
    **{"image": "image", "image_url": "image", "input_image": "image"},
    **{"video": "video", "video_url": "video", "input_video": "video"},
}
# Names of qwen-vl-utils -> ours.
OTHER_NAMES = {"nframes": "num_frames", "video_start": "start", "video_end": "end"}
# What else may stand in a part of a video: how its frames came, and what tells the time of frames.
OF_VIDEO = ("frames", "video_metadata", "sample_fps", "raw_fps", "resized_height", "resized_width")
OF_IMAGE = ("detail", "resized_height", "resized_width")
LONGEST = 200  # characters of a part that an error shows


class Medium:
    """What a part of a message shows, and how it is to be read.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        kind: "image" or "video".
        content: what the processors take.
        settings: of this medium alone, by the names of its processor; and `frames`, `video_metadata`.
    """

    def __init__(self, kind: str, content: Any, settings: dict[str, Any]):
        self.kind, self.content, self.settings = kind, content, settings

    def laid_on(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a call with this medium's own on top."""
        return laid_on_top(settings, self.settings)


def kind_of(part: Any) -> str:
    """Of a part of a message: "text", "image", "video" or another word.

    Raises:
        ValueError: it is no part: it says no type.
    """
    if not isinstance(part, Mapping) or "type" not in part:
        raise ValueError(f'a part of a message is a mapping with a "type", found {_brief(part)}')
    return str(KINDS.get(part["type"], part["type"]))


def content_of(part: Mapping[str, Any]) -> Any:
    """What a part shows, under any of the keys that are in use; None where it names nothing."""
    kind = kind_of(part)
    for key in (part["type"], *[name for name, of in KINDS.items() if of == kind], "url", "path", "base64"):
        found = part.get(key)
        if found is None:
            continue
        if isinstance(found, Mapping) and not is_cell(found):  # OpenAI's {"url": ...}
            refuse_unknown(f"the {key} of a message's part", found.keys(), ("url", "detail"))
            found = found.get("url")
        return decode_base64(found) if key == "base64" and isinstance(found, str) else found
    return None


def medium_of(part: Mapping[str, Any], known: Sequence[str]) -> Medium:
    """A part of a message that is no text.

    Args:
        part: with a `type`.
        known: the settings of its processor.

    Raises:
        ValueError: it names no medium, or says a thing twice in two ways.
        TypeError: a key that nobody knows; the nearest is named.
    """
    kind = kind_of(part)
    content = content_of(part)
    if content is None:
        raise ValueError(f"a part of a message names no {kind}: {_brief(part)}")
    places = {*(name for name, of in KINDS.items() if of == kind), "type", "url", "path", "base64"}
    given = {name: value for name, value in part.items() if value is not None and name not in places}
    own = [*known, *(OF_VIDEO if kind == "video" else OF_IMAGE), *(OTHER_NAMES if kind == "video" else ())]
    refuse_unknown(f"a part of a message that is a {kind}", given, [*sorted(places), *dict.fromkeys(own)])
    for theirs, ours in OTHER_NAMES.items():
        if theirs in given:
            if ours in given:
                raise ValueError(f"a part of a message says {theirs} and {ours}, which are the same")
            given[ours] = given.pop(theirs)
    if given.pop("detail", "auto") == "low":
        raise ValueError('detail="low" is not known here: max_pixels makes an image smaller')
    sides = {name: given.pop(f"resized_{name}", None) for name in ("height", "width")}
    if None not in sides.values():
        given["resized"] = sides
    elif any(sides.values()):
        raise ValueError(f"a part of a message says one of resized_height and resized_width: {_brief(part)}")
    if kind == "video":
        rates = [given.pop(name, None) for name in ("sample_fps", "raw_fps")]
        if rates[0] is not None:
            given.setdefault("video_metadata", {"fps": float(rates[0])})
        if isinstance(content, list | tuple) and not is_frames(content) and pair_of(content) is None:
            given["frames"] = True  # one part is one clip
    return Medium(kind, content, given)


def with_media(conversation: Any, known: Mapping[str, Sequence[str]]) -> Any:
    """A conversation, or a list of them, with a `Medium` in each part that holds one.

    Args:
        conversation: messages, as transformers takes them; it stays as it is.
        known: the settings that parts of an image and of a video may hold; empty where the media come beside
            the conversation, and nothing is looked at but the kinds.
    """
    if isinstance(conversation, list | tuple) and conversation and isinstance(conversation[0], list | tuple):
        return [with_media(one, known) for one in conversation]
    if hasattr(conversation, "messages"):
        return with_media(conversation.messages, known)
    return [_with_media(message, known) for message in conversation]


def _with_media(message: Any, known: Mapping[str, Sequence[str]]) -> Any:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list | tuple):
        return message
    parts = []
    for part in message["content"]:
        kind = kind_of(part)
        if kind in known and content_of(part) is not None:
            part = {"type": kind, kind: medium_of(part, known[kind])}
        elif kind in KINDS:
            part = {**part, "type": kind}
        parts.append(part)
    return {**message, "content": parts}


def refuse_empty(conversation: Any) -> None:
    """Raise ValueError for a prompt without a message that says something."""
    batch = isinstance(conversation, list | tuple) and conversation
    conversations = conversation if batch and isinstance(conversation[0], list | tuple) else [conversation]
    for found in conversations:
        if not found or all(not message.get("content") for message in found if isinstance(message, dict)):
            raise ValueError(f"the prompt is empty: give a message with content, found {_brief(found)}")


def told(videos_of: Sequence[Sequence[Any]], metadata: Any) -> list[list[Any]]:
    """The videos of each prompt with the metadata of a call, unless they have their own.

    Args:
        videos_of: a list for each prompt.
        metadata: one for a single video, one (or None) for each in their order, or a list for each prompt.

    Raises:
        ValueError: another number of metadata than of videos.
    """
    nested = isinstance(metadata, list | tuple) and any(isinstance(own, list | tuple) for own in metadata)
    flat = [one for own in metadata for one in own] if nested else metadata
    waiting = iter(of_each("video_metadata", flat, sum(map(len, videos_of))))
    return [[_told(video, next(waiting)) for video in own] for own in videos_of]


def _told(video: Any, metadata: Any) -> Medium:
    if isinstance(video, Medium):
        return Medium("video", video.content, {"video_metadata": metadata, **video.settings})
    return Medium("video", video, {"video_metadata": metadata})


def of_each(name: str, given: Any, count: int) -> list[Any]:
    """What belongs to each of `count` videos: a list with one a video, one for a single video, or None.

    Args:
        name: of what is given, for the message.
        given: a list, one, or None.
        count: of the videos.

    Raises:
        ValueError: another number of them.
    """
    found = given if isinstance(given, list | tuple) else [given] * (count if given is None else 1)
    if len(found) != count:
        raise ValueError(f"{count} videos but {len(found)} {name}: give one a video")
    return list(found)


def _brief(part: Any) -> str:
    text = repr(part)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
