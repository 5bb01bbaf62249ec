"""Drawing for `inspect`: tiles, rows of tiles under a caption, and a bar chart, with Pillow alone."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..data.items import Item, Source
from ..data.media import BROKEN, open_picture, read_frames, segment_centers
from ..modeling.video_reader import VideoReader

TILE = 120
GAP = 6
MARGIN = 28
VIDEO_FRAMES = 3
INK, QUIET, FAINT, BAR, PAPER = "#1c2430", "#6a7485", "#e4e8ee", "#3f6fb5", "#ffffff"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def tile(source: Source, item: Item) -> Image.Image:
    """A square of a picture's middle; of a video, three of its frames in a row. A cross for a broken one."""
    try:
        content = source.open(item)
        if item.kind == "image":
            return _square(open_picture(content))
        with VideoReader(content) as reader:
            frames = read_frames(reader, segment_centers(len(reader), VIDEO_FRAMES), TILE)
        strip = Image.new("RGB", (VIDEO_FRAMES * (TILE + 1) - 1, TILE), PAPER)
        for place, frame in enumerate(frames):
            strip.paste(_square(Image.fromarray(frame)), (place * (TILE + 1), 0))
        return strip
    except BROKEN:
        cross = Image.new("RGB", (TILE, TILE), FAINT)
        ImageDraw.Draw(cross).line(
            [(20, 20), (TILE - 20, TILE - 20), (TILE - 20, 20), (20, TILE - 20)], QUIET, 2
        )
        return cross


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.resize((TILE, TILE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))


@dataclass
class Row:
    """One line of a sheet: a caption in bold and quiet ink, then groups of tiles with a word over each
    group."""

    title: str
    note: str
    groups: Sequence[tuple[str, Sequence[Image.Image]]]


def sheet(heading: str, explanation: str, rows: Sequence[Row]) -> Image.Image:
    """Rows of tiles under one another.

    Args:
        heading: the sheet's title.
        explanation: a line below it.
        rows: from top to bottom.
    """
    caption, group_gap, head = 46, 34, 96
    # Groups of one place begin at one column in every row.
    columns = [MARGIN]
    for place in range(max(len(row.groups) for row in rows)):
        found = [row.groups[place][1] for row in rows if place < len(row.groups) and row.groups[place][1]]
        widest = max((sum(one.width + GAP for one in tiles) for tiles in found), default=TILE)
        columns.append(columns[-1] + widest + group_gap)
    text_width = int(font(15).getlength(explanation))
    width = max(2 * MARGIN + max(640, text_width), columns[-1] - group_gap - GAP + MARGIN)
    height = head + len(rows) * (caption + TILE + 28) + MARGIN - 10
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 4), heading, INK, font(26))
    draw.text((MARGIN, MARGIN + 32), explanation, QUIET, font(15))
    y = head
    for row in rows:
        draw.line([(MARGIN, y), (width - MARGIN, y)], FAINT, 1)
        draw.text((MARGIN, y + 9), row.title, INK, font(17))
        draw.text((MARGIN + font(17).getlength(row.title) + 12, y + 11), row.note, QUIET, font(15))
        for x, (word, tiles) in zip(columns, row.groups, strict=False):
            draw.text((x, y + 33), word, QUIET, font(12))
            for one in tiles:
                canvas.paste(one, (x, y + caption + 4))
                x += one.width + GAP
        y += caption + TILE + 28
    return canvas


def size_histogram(sizes: Sequence[int]) -> Image.Image:
    """How many clusters have how many items: bars over sizes on a logarithmic axis, empty ones apart."""
    width, height, left, bottom, top = 900, 450, 74, 70, 128
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    filled = sorted(size for size in sizes if size)
    empty = len(sizes) - len(filled)
    draw.text((MARGIN, MARGIN - 4), "Cluster sizes", INK, font(26))
    median = filled[len(filled) // 2]
    draw.text(
        (MARGIN, MARGIN + 32),
        f"{len(sizes):,} clusters of {sum(sizes):,} items: smallest {filled[0]:,}, median {median:,}, "
        f"largest {filled[-1]:,}; {empty:,} empty",
        QUIET,
        font(15),
    )
    edges = _bin_edges(filled[0], filled[-1])
    counts = [sum(a <= size < b for size in filled) for a, b in itertools.pairwise(edges)]
    plot_width, plot_height = width - left - MARGIN, height - bottom - top
    ticks = _ticks(max(counts))
    for value in ticks:
        y = top + plot_height * (1 - value / ticks[-1])
        draw.line([(left, y), (width - MARGIN, y)], FAINT, 1)
        draw.text((left - 10, y), f"{value:,}", QUIET, font(13), anchor="rm")
    slot = plot_width / len(counts)
    every = max(1, math.ceil(52 / slot))
    for i, count in enumerate(counts):
        x, top_of_bar = left + i * slot, top + plot_height * (1 - count / ticks[-1])
        if count:
            draw.rectangle(
                [x + 2, min(top_of_bar, top + plot_height - 2), x + slot - 2, top + plot_height], BAR
            )
        if i % every == 0:
            last = edges[i + 1] - 1
            name = f"{edges[i]:,}" if last == edges[i] else f"{_short(edges[i])}-{_short(last)}"
            draw.text((x + slot / 2, top + plot_height + 8), name, QUIET, font(13), anchor="mt")
    draw.line([(left, top + plot_height), (width - MARGIN, top + plot_height)], INK, 1)
    draw.text((left + plot_width / 2, height - 26), "items in a cluster", QUIET, font(14), anchor="mm")
    draw.text((MARGIN, top - 22), "clusters", QUIET, font(14), anchor="lm")
    return canvas


def _short(value: int) -> str:
    return f"{value / 1000:.3g}k" if value >= 10_000 else str(value)


def _bin_edges(smallest: int, largest: int, most: int = 24) -> list[int]:
    """Whole numbers, evenly spaced in the logarithm; one bin a size where sizes are few."""
    if largest - smallest < most:
        return list(range(smallest, largest + 2))
    low, high = math.log(smallest), math.log(largest + 1)
    edges = {round(math.exp(low + (high - low) * i / most)) for i in range(most + 1)}
    return sorted(edges | {smallest, largest + 1})


def _ticks(largest: int) -> list[int]:
    """Round numbers from 0 to at least `largest`, about five of them."""
    rough = max(1, largest) / 4
    magnitude = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = int(next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough))
    return list(range(0, largest + step, step))
