"""Contact sheets: what was drawn, so that one sees what moves.

A clip is a row: up to eight frames around its events with what moves outlined, then the way that it went.
"""

import itertools
import math
from pathlib import Path
from textwrap import fill

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .clips import Clip
from .folder import Job, write_picture
from .images import DrawnImage, draw_image
from .questions import Question, ask_clip

NAME = "preview.png"
ROWS, TILES, TILE, GAP, LABELS = 16, 8, 144, 6, 300
PAPER, INK, FAINT, ACCENT = (17, 19, 25), (238, 239, 243), (150, 157, 174), (255, 255, 255)


def save_preview(job: Job, out: str | Path, count: int) -> Path:
    """Draw `preview.png` into the folder `out`: the first sixteen of the job's `count` items.

    Args:
        job: what was drawn.
        out: the folder.
        count: items of the job.

    Raises:
        OSError: it cannot be written.
    """
    media = range(min(ROWS, job.media(count)))
    if job.kind == "images":
        sheet = image_sheet([draw_image(job.seed, index, job.family, job.image) for index in media])
    else:
        drawn = [ask_clip(job.seed, index, job.family, job.clip) for index in media]
        sheet = clip_sheet(
            [(clip, questions if job.kind == "questions" else []) for clip, questions in drawn]
        )
    path = Path(out) / NAME
    write_picture(path, sheet)
    return path


def clip_sheet(clips: list[tuple[Clip, list[Question]]]) -> Image.Image:
    """A row for each clip; questions, where there are some, next to it."""
    height = TILE + GAP + 18
    width = LABELS + (TILES + 1) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, GAP + height * len(clips)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (clip, questions) in enumerate(clips):
        top = GAP + row * height
        _describe(draw, clip, questions, top)
        times = event_frames(clip)
        for place, t in enumerate(times):
            left = LABELS + place * (TILE + GAP)
            sheet.paste(_tile(clip.frames[t]), (left, top))
            draw.text((left + 2, top + TILE + 1), f"frame {t}", FAINT, ImageFont.load_default(12))
            for event in clip.truth.events:
                if event.start <= t < event.end:
                    _outline(draw, clip, event.sprite, t, left, top)
        left = LABELS + TILES * (TILE + GAP)
        sheet.paste(_tile(clip.frames[times[-1]]).point(lambda value: value // 2), (left, top))
        for event in clip.truth.events:
            _way(draw, clip, event.sprite, range(event.start - 1, event.end), left, top)
        draw.text((left + 2, top + TILE + 1), "the way", FAINT, ImageFont.load_default(12))
    return sheet


def image_sheet(images: list[DrawnImage]) -> Image.Image:
    """Images four in a row, each with its longest caption."""
    side, text, columns = 256, 84, 4
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + text) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for place, image in enumerate(images):
        left, top = GAP + place % columns * (side + GAP), GAP + place // columns * (side + text)
        sheet.paste(Image.fromarray(image.pixels).resize((side, side), Image.Resampling.NEAREST), (left, top))
        draw.multiline_text((left, top + side + 3), fill(image.captions[0], 42), INK, font, spacing=2)
    return sheet


def event_frames(clip: Clip) -> list[int]:
    """At most eight frames, shared among the events, from just before each to its end."""
    last = len(clip.frames) - 1
    spans = sorted({(event.start - 1, min(event.end, last)) for event in clip.truth.events})
    each, more = divmod(TILES, len(spans))
    times: set[int] = set()
    for place, (start, end) in enumerate(spans):
        tiles = each + (place < more)
        if tiles == 2:
            times |= {start, (start + end) // 2}
            continue
        spare = max(0, tiles - 1 - (end - start)) // 2  # more tiles than frames: some from before and after
        first, final = max(0, start - spare), min(last, end + spare)
        times |= set(np.linspace(first, final, tiles).round().astype(int).tolist())
    return sorted(times)


def _describe(draw: ImageDraw.ImageDraw, clip: Clip, questions: list[Question], top: int) -> None:
    head = f"{clip.scene}   ({clip.labels['background']}, {clip.labels['ground']} ground)"
    draw.text((GAP, top), head, INK, ImageFont.load_default(14))
    skipped = ("background", "ground")
    lines = [f"{name}: {label}" for name, label in clip.labels.items() if label and name not in skipped]
    for question in questions:
        letters = "  ".join(
            f"{letter} {choice}" for letter, choice in zip("ABCD", question.choices, strict=False)
        )
        lines = [] if question is questions[0] else lines
        lines += [fill(question.text, 46), f"  {letters}  ->  {question.answer}"]
    draw.multiline_text((GAP, top + 22), "\n".join(lines), FAINT, ImageFont.load_default(12), spacing=3)


def _tile(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(frame).resize((TILE, TILE), Image.Resampling.NEAREST)


def _scale(clip: Clip) -> tuple[float, float]:
    return TILE / clip.frames.shape[2], TILE / clip.frames.shape[1]


def _outline(draw: ImageDraw.ImageDraw, clip: Clip, sprite: int, t: int, left: int, top: int) -> None:
    x, y = _scale(clip)
    box = clip.truth.boxes[sprite, t].tolist()
    if any(box):
        corners = (left + box[0] * x - 2, top + box[1] * y - 2, left + box[2] * x + 1, top + box[3] * y + 1)
        draw.rectangle(corners, outline=ACCENT)


def _way(draw: ImageDraw.ImageDraw, clip: Clip, sprite: int, times: range, left: int, top: int) -> None:
    """A line through the middles of the boxes, broken where the sprite leaves; a dot at its end."""
    (x, y), width = _scale(clip), clip.frames.shape[2]
    middles = []
    for t in times:
        box = clip.truth.boxes[sprite, t]
        if box.any():
            middles.append((left + (box[0] + box[2]) / 2 * x, top + (box[1] + box[3]) / 2 * y))
    for one, two in itertools.pairwise(middles):
        if math.dist(one, two) < width * x / 4:
            draw.line((*one, *two), ACCENT, 2)
    if middles:
        (end_x, end_y) = middles[-1]
        draw.ellipse((end_x - 4, end_y - 4, end_x + 4, end_y + 4), ACCENT)
