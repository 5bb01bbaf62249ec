"""Drawing for `inspect`: tiles, rows of tiles under a caption, and a histogram."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.items import Item, Source
from ..data.media import BROKEN, open_picture, read_frames, segment_centers
from ..jobs.charts import new_figure
from ..modeling.video_reader import VideoReader

TILE = 120
GAP = 6
MARGIN = 28
VIDEO_FRAMES = 3
MOST_BINS = 24
INK, QUIET, FAINT, BAR, PAPER = "#1c2430", "#6a7485", "#e4e8ee", "#3f6fb5", "#ffffff"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def tile(source: Source, item: Item) -> Image.Image:
    """A square of a picture's middle; of a video, three of its frames in a row. A cross for a broken one.

    A truncated one shows what is there: it has a feature, since it was wanted so.
    """
    try:
        content = source.open(item)
        if item.kind == "image":
            return _square(open_picture(content))
        with VideoReader(content, errors="partial") as reader:
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
    filled = sorted(size for size in sizes if size)
    smallest, median, largest = filled[0], filled[len(filled) // 2], filled[-1]
    figure = new_figure(900, 450)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    # A bin a size where sizes are few.
    few = largest - smallest < MOST_BINS
    whole, spread = np.arange(smallest, largest + 2) - 0.5, np.geomspace(smallest, largest + 1, MOST_BINS)
    axes.hist(filled, (whole if few else spread).tolist(), color=BAR, rwidth=0.9)
    axes.set_xscale("linear" if few else "log")
    axes.locator_params(axis="y", integer=True)
    axes.set_xlabel("items in a cluster")
    axes.set_ylabel("clusters")
    axes.set_title(
        f"{len(sizes):,} clusters of {sum(sizes):,} items: smallest {smallest:,}, median {median:,}, "
        f"largest {largest:,}; {len(sizes) - len(filled):,} empty"
    )
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
