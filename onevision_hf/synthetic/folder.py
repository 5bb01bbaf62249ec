"""A folder of drawn media: files one by one, each whole or not there, and the manifest last.

`plan.json` says what the folder is made of. A run that was interrupted is started again by the same call: it
adds the files that are missing, with the same bytes. Another seed, family or setting is refused.
"""

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import PIL
from PIL import Image

from ..jobs.pool import in_order, num_cores
from ..jobs.run_folder import changes
from .clips import ClipSettings, wanted_label
from .encoding import EncodingSettings, encode, encoder_version
from .families import CLIP_FAMILIES, IMAGE_FAMILIES, Family, named_family
from .images import ImageSettings, draw_image, image_labels
from .manifest import NAME, ManifestWriter, schema, truth_row
from .questions import QUESTIONS_PER_CLIP, ask_clip

Kind = Literal["clips", "images", "questions"]
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
PLAN = "plan.json"
DRAWING = 1  # raised when the same seed gives other pixels than before
_FEW = 128  # media that are made before other processes would have started


@dataclass(frozen=True)
class Job:
    """What a folder is made of, but for how many.

    Attributes:
        kind: `clips`, `images`, or `questions` about clips.
        seed: of the world, 0 or more.
        family: the family whose labels become folders; None is a mixture in one folder.
        clip: settings of clips.
        encoding: settings of their files.
        image: settings of images.

    Raises:
        ValueError: an unknown kind or family, a negative seed.
    """

    kind: Kind
    seed: int = 0
    family: str | None = None
    clip: ClipSettings = field(default_factory=ClipSettings)
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    image: ImageSettings = field(default_factory=ImageSettings)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} cannot be drawn; choose one of {', '.join(get_args(Kind))}")
        if self.seed < 0:
            raise ValueError(f"a seed counts from 0, found {self.seed}")
        if self.family is not None:
            named_family(self.family, self.families)

    @property
    def families(self) -> dict[str, Family]:
        return IMAGE_FAMILIES if self.kind == "images" else CLIP_FAMILIES

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the bytes of a file depend on, but for seed, family and index."""
        if self.kind == "images":
            own, encoder = asdict(self.image), f"pillow {PIL.__version__}"
        else:
            own, encoder = asdict(self.clip) | asdict(self.encoding), encoder_version()
        return own | {"encoder": encoder, "drawing": DRAWING}

    @property
    def questions_per_medium(self) -> int:
        return QUESTIONS_PER_CLIP if self.kind == "questions" and self.family is None else 1

    def media(self, count: int) -> int:
        """How many files hold `count` items: three questions share a clip, unless a family is named."""
        return -(-count // self.questions_per_medium)

    def label(self, index: int) -> str | None:
        """The label of the named family that medium `index` has."""
        if self.family is None:
            return None
        if self.kind == "images":
            return wanted_label(image_labels(self.family, self.image), index)
        return wanted_label(CLIP_FAMILIES[self.family].labels, index)

    def path(self, index: int) -> str:
        """Where medium `index` lies: DIR/<label>/<id>.mp4 when a family is named, else DIR/media/<id>.mp4."""
        suffix = "png" if self.kind == "images" else "mp4"
        return f"{self.label(index) or 'media'}/{index:06d}.{suffix}"


def produce(
    job: Job, out: str | Path, count: int, *, workers: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Draw `count` clips, images or questions into the folder `out`, with a manifest.

    Args:
        job: what is drawn.
        out: the folder to fill.
        count: clips, images or questions.
        workers: processes; None is one per core, or this one alone for few media.
        progress: wraps the loop over media, given their number.

    Returns:
        `out`, `manifest` (paths), `items`, `media`, and of these `made` now and `kept` from before.

    Raises:
        ValueError: count or workers below 1; the folder holds something else, or more than `count`.
        OSError: it cannot be written to; what was finished is kept.
        ImportError: pyarrow is missing.
    """
    if count < 1:
        raise ValueError(f"count is at least 1, found {count}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is at least 1, found {workers}")
    out = Path(out)
    columns = schema(job.kind, job.families, job.settings)
    media = job.media(count)
    kept = 0
    with _naming_the_folder(out), _claimed(out):
        _match_plan(job, out, count)
        for folder in {Path(job.path(index)).parent for index in range(min(media, 64))}:
            (out / folder).mkdir(exist_ok=True)
        if workers is None:
            workers = 1 if media <= _FEW else num_cores()
        rows_left = count
        results: Iterable[Any] = in_order(partial(make_medium, job, out), range(media), min(workers, media))
        with _whole_file(out / NAME) as path, ManifestWriter(path, columns) as manifest:
            for was_there, rows in progress(results, media) if progress else results:
                kept += was_there
                for row in rows[:rows_left]:
                    manifest.add(row)
                rows_left -= len(rows)
    return {
        "out": str(out),
        "manifest": str(out / NAME),
        "kind": job.kind,
        "items": count,
        "media": media,
        "made": media - kept,
        "kept": kept,
    }


def make_medium(job: Job, out: Path, index: int) -> tuple[bool, list[dict[str, Any]]]:
    """Draw medium `index`, write its file unless it is there; whether it was, and its manifest rows.

    Args:
        job: what is drawn.
        out: the folder.
        index: of the medium.
    """
    name = job.path(index)
    path = out / name
    # An empty file is what a machine that lost its power may leave of a renamed one.
    was_there = path.exists() and path.stat().st_size > 0
    common: dict[str, Any] = {
        "id": f"{index:06d}",
        "path": name,
        "family": job.family,
        "label": job.label(index),
        "seed": job.seed,
        "index": index,
        "settings": job.settings,
    }
    content: Callable[[], bytes]
    if job.kind == "images":
        image = draw_image(job.seed, index, job.family, job.image)
        content = partial(_png, Image.fromarray(image.pixels))
        common |= {"labels": image.labels, "captions": image.captions, "words": image.words}
        rows, truth = [common], image.truth
    else:
        clip, questions = ask_clip(job.seed, index, job.family, job.clip)
        content = partial(encode, clip.frames, job.encoding)
        common |= {"labels": clip.labels, "scene": clip.scene}
        rows, truth = [common], clip.truth
        if job.kind == "questions":
            rows = [
                common
                | {"id": f"{index:06d}-{place}", "family": q.family, "label": q.label}
                | {"question": q.text, "choices": list(q.choices), "answer": q.answer}
                for place, q in enumerate(questions)
            ]
    if not was_there:
        write_file(path, content())
    annotations = truth_row(truth)
    return was_there, [row | {"truth": annotations} for row in rows]


def write_picture(path: Path, picture: Image.Image) -> None:
    with _naming_the_folder(path.parent):
        write_file(path, _png(picture))


def write_file(path: Path, content: bytes) -> None:
    with _whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary name; what the body writes there gets the name `path` when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def _naming_the_folder(out: Path) -> Iterator[None]:
    """Errors of the file system, with the folder and with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        raise OSError(
            error.errno,
            f"cannot write into {out}: {reason}; finished files are kept, the same command goes on",
        ) from error


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder, made if needed, for this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{out} is being written by another process; wait for it or stop it") from None
    try:
        yield
    finally:
        os.close(handle)


def _match_plan(job: Job, out: Path, count: int) -> None:
    """Match the folder to the job: begin, go on, or refuse."""
    plan: dict[str, Any] = {"kind": job.kind, "seed": job.seed, "family": job.family}
    plan["settings"] = job.settings
    path = out / PLAN
    if path.exists():
        found = json.loads(path.read_text())
        had = found.pop("count")
        if found != plan:
            old, new = ({**p.pop("settings"), **p} for p in (found, {**plan}))
            raise ValueError(
                f"{out} was drawn otherwise: {'; '.join(changes(old, new))}. Choose another folder, or "
                "delete it"
            )
        if count < had:
            raise ValueError(f"{out} is a run of {had}; ask for as many or more, found count={count}")
    elif other := sorted(file.name for file in out.iterdir() if not file.name.startswith(".")):
        raise ValueError(f"{out} holds other files ({other[0]}) and no {PLAN}; choose an empty folder")
    write_file(path, (json.dumps({**plan, "count": count}, indent=1) + "\n").encode())


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
