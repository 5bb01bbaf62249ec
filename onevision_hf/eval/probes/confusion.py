"""A confusion matrix as a picture: what each class is taken for, the most frequent mistakes named."""

import numpy as np
from PIL import Image, ImageDraw

from ...clustering.pictures import BAR, FAINT, INK, MARGIN, PAPER, QUIET, font

_NAMED = 40  # so many classes have their names beside the matrix
_SIDE = 560  # pixels of the matrix, about
_WORST = 12


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts: the row is the true class, the column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def draw_confusion(counts: np.ndarray, names: list[str], heading: str, note: str) -> Image.Image:
    """Shares of each row in shades; with up to 40 classes their names, with up to 12 the numbers too."""
    classes = len(names)
    cell = max(2, min(56, _SIDE // classes))
    side = cell * classes
    named = classes <= _NAMED
    small = font(13)
    label_width = int(max(small.getlength(name) for name in names)) + 14 if named else 60
    level = named and all(small.getlength(name) < cell - 4 for name in names)
    top, left = 100 + (label_width if named and not level else 24), MARGIN + label_width
    worst = _mistakes(counts, names)
    list_left = left + side + 40
    list_width = int(max([font(14).getlength(line) for line in worst], default=200)) + MARGIN
    width = max(
        list_left + list_width,
        2 * MARGIN + int(font(15).getlength(note)),
        2 * MARGIN + int(font(26).getlength(heading)),
    )
    height = max(top + side + 56, top + 34 + 22 * len(worst) + MARGIN)
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 4), heading, INK, font(26))
    pen.text((MARGIN, MARGIN + 32), note, QUIET, font(15))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    tone = np.array([int(BAR[i : i + 2], 16) for i in (1, 3, 5)])
    shades = (255 + shares[..., None] * (tone - 255)).round().astype(np.uint8)
    canvas.paste(Image.fromarray(shades).resize((side, side), Image.Resampling.NEAREST), (left, top))
    pen.rectangle([left - 1, top - 1, left + side, top + side], outline=FAINT)
    if classes <= _NAMED:
        for number in range(classes):
            x, y = left + number * cell, top + number * cell
            pen.rectangle([x, y, x + cell - 1, y + cell - 1], outline=QUIET)
    if classes <= 12:
        for row, column in np.ndindex(classes, classes):
            if counts[row, column]:
                ink = PAPER if shares[row, column] > 0.5 else INK
                at = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
                pen.text(at, str(counts[row, column]), ink, small, anchor="mm")
    if named:
        _name_axes(canvas, names, cell, left, top, level)
    else:
        for number in range(0, classes, max(1, round(classes / 8 / 10) * 10)):
            pen.text((left - 8, top + (number + 0.5) * cell), str(number), QUIET, small, anchor="rm")
            pen.text((left + (number + 0.5) * cell, top - 6), str(number), QUIET, small, anchor="ms")
    pen.text((left + side / 2, top + side + 22), "predicted", QUIET, font(14), anchor="mm")
    pen.text((MARGIN, top - 14), "true", QUIET, font(14), anchor="ls")
    if worst:
        pen.text((list_left, top), "most frequent mistakes", INK, font(15))
    for place, line in enumerate(worst):
        pen.text((list_left, top + 30 + 22 * place), line, QUIET, font(14))
    return canvas


def _name_axes(canvas: Image.Image, names: list[str], cell: int, left: int, top: int, level: bool) -> None:
    """Names to the left, and above: level where they fit their column, else turned upright."""
    pen, small = ImageDraw.Draw(canvas), font(13)
    for number, name in enumerate(names):
        middle = (number + 0.5) * cell
        pen.text((left - 8, top + middle), name, INK, small, anchor="rm")
        if level:
            pen.text((left + middle, top - 6), name, INK, small, anchor="ms")
            continue
        length = int(small.getlength(name)) + 4
        strip = Image.new("RGB", (length, 18), PAPER)
        ImageDraw.Draw(strip).text((2, 9), name, INK, small, anchor="lm")
        upright = strip.rotate(90, expand=True)
        canvas.paste(upright, (int(left + middle) - 9, top - 6 - length))


def _mistakes(counts: np.ndarray, names: list[str]) -> list[str]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    pairs = [np.unravel_index(flat, wrong.shape) for flat in order]
    return [f"{names[t]}  as  {names[p]}: {wrong[t, p]}" for t, p in pairs if wrong[t, p]]
