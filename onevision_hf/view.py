"""Pictures of what codec patchification keeps of a clip, drawn from plain arrays with numpy and pillow.

    view = ClipView(frames, energy, positions, timestamps, picture_types, title="clip.mp4")
    save(view, "clip.png")        # a sheet: frames, uniform sampling, energy, kept patches
    save(view, "clip.mp4")        # the same four panels over time; so does .gif

On the command line: `onevision view CLIP --out F.png`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, PANEL, RULE = (17, 19, 25), (30, 33, 42), (58, 63, 78)
INK, FAINT, ACCENT = (238, 239, 243), (150, 157, 174), (255, 183, 77)
SHEET_WIDTH, MARGIN, GAP, LABELS = 2000, 56, 12, 210
SUFFIXES = (".png", ".gif", ".mp4")

Progress = Callable[[Iterable[Image.Image], int], Iterable[Image.Image]]


@dataclass(frozen=True)
class ClipView:
    """What is drawn. T sampled frames on a grid of gh x gw patches, of which K are kept.

    Args:
        frames: (T, H, W, 3) uint8 RGB, resized onto the grid: H and W are multiples of gh and gw.
        energy: (T, gh, gw), at least 0: how much happens in each patch.
        positions: (K, 3) integers [t, h, w], all different: the patches that are kept.
        timestamps: (T,) seconds.
        picture_types: T names such as "I", "P", "B"; empty where the clip has none (decoded frames).
        title: what stands over the picture, usually the name of the file.
        subtitle: a second, smaller line.
        figures: (label, value) pairs for the header, in order.

    Raises:
        ValueError: if the arrays do not fit one another.
    """

    frames: np.ndarray
    energy: np.ndarray
    positions: np.ndarray
    timestamps: np.ndarray
    picture_types: Sequence[str] = ()
    title: str = ""
    subtitle: str = ""
    figures: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        (t, gh, gw), (frames, height, width) = self.energy.shape, self.frames.shape[:3]
        if frames != t or height % gh or width % gw or len(self.timestamps) != t:
            raise ValueError(
                f"frames {self.frames.shape}, energy {self.energy.shape}, {len(self.timestamps)} timestamps"
                " do not fit: as many frames as maps and timestamps, and whole patches, are needed"
            )
        if len(self.picture_types) not in (0, t):
            raise ValueError(f"{len(self.picture_types)} picture types were given for {t} frames")
        inside = (self.positions >= 0) & (self.positions < self.energy.shape)
        if not inside.all():
            outside = self.positions[~inside.all(axis=1)][0].tolist()
            raise ValueError(f"position {outside} lies outside the grid of {t} x {gh} x {gw} patches")

    @cached_property
    def kept(self) -> np.ndarray:
        """(T, gh, gw) bool: which patches are kept."""
        kept = np.zeros(self.energy.shape, dtype=bool)
        kept[tuple(self.positions.T)] = True
        return kept

    @cached_property
    def seen(self) -> np.ndarray:
        """The frames that uniform sampling takes whole for the same number of patches."""
        per_frame = self.energy[0].size
        whole = max(1, min(len(self.frames), round(len(self.positions) / per_frame)))
        return np.floor(np.linspace(0, len(self.frames) - 1, whole)).astype(int)

    @cached_property
    def ceiling(self) -> float:
        """The energy that is drawn in the brightest colour: the 99th percentile over the clip."""
        return float(np.percentile(self.energy, 99)) or 1.0

    def heat(self, t: int) -> np.ndarray:
        """The energy of frame `t` in colours, (H, W, 3) uint8."""
        return self._enlarge(colour_map(self.energy[t] / self.ceiling))

    def dimmed(self, t: int) -> np.ndarray:
        """Frame `t` with the patches that are not kept in dark grey, (H, W, 3) uint8."""
        frame = self.frames[t].astype(np.float32)
        grey = frame.mean(axis=-1, keepdims=True) * 0.24 + 10
        return np.where(self._enlarge(self.kept[t])[..., None], frame, grey).astype(np.uint8)

    def caption(self, t: int) -> str:
        """Time and picture type of frame `t`."""
        kind = f"  {self.picture_types[t]}" if self.picture_types else ""
        return f"{self.timestamps[t]:.2f} s{kind}"

    def _enlarge(self, grid: np.ndarray) -> np.ndarray:
        height, width = self.frames.shape[1] // grid.shape[0], self.frames.shape[2] // grid.shape[1]
        return grid.repeat(height, axis=0).repeat(width, axis=1)


@lru_cache
def _colour_table(size: int = 256) -> np.ndarray:
    """Dark violet to pale yellow, even steps of lightness in OKLab (Ottosson 2020), (size, 3) uint8."""
    at = np.linspace(0, 1, size)
    lightness, hue = 0.14 + 0.82 * at, np.deg2rad(280 + 178 * at)
    chroma = 0.045 + 0.15 * np.sin(np.pi * at) ** 0.9
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_lms = np.array(
        [[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.2914855480]]
    )
    lms = (lightness + to_lms @ np.stack([a, b])) ** 3
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_rgb @ lms, 0, 1).T
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


def colour_map(values: np.ndarray) -> np.ndarray:
    """Colours for values in 0..1 (clipped): uint8 RGB in a new last axis, lighter for more."""
    table = _colour_table()
    return table[np.round(np.clip(values, 0, 1) * (len(table) - 1)).astype(int)]


def draw_sheet(view: ClipView) -> Image.Image:
    """One picture of the clip: a column for each moment; frames, uniform sampling, energy, kept patches."""
    height, width = view.frames.shape[1:3]
    room = SHEET_WIDTH - 2 * MARGIN - LABELS
    cell_width = min((room - 5 * GAP) // 6, round(300 * width / height))
    cell = (cell_width, round(cell_width * height / width))
    moments = _moments(view, (room + GAP) // (cell_width + GAP))
    left, strip = MARGIN + LABELS, len(moments) * (cell_width + GAP) - GAP

    header = 232
    rows = header + 34 + 4 * (cell[1] + GAP) + 2 * 44
    image = Image.new("RGB", (SHEET_WIDTH, rows + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, view, SHEET_WIDTH)

    top = header
    for column, t in enumerate(moments):
        centre = left + column * (cell_width + GAP) + cell_width // 2
        _text(draw, (centre, top + 12), view.caption(t), 20, FAINT, "mm")
    top += 34
    per_frame, total = view.energy[0].size, view.energy.size
    kept, frames = len(view.positions), len(view.frames)
    labels = [
        ("frames", [f"{len(moments)} of the {frames}", "that were sampled"]),
        ("uniform", ["the same budget buys", f"{_count(len(view.seen), 'whole frame')} of {frames}"]),
        ("energy", ["dark: as predicted,", "bright: moves, changes"]),
        ("kept", [f"{kept:,} of {total:,}", f"patches, {100 * kept / total:.1f} %"]),
    ]
    for row, (name, notes) in enumerate(labels):
        _text(draw, (MARGIN, top + 2), name, 30, INK, "la")
        for line, note in enumerate(notes):
            _text(draw, (MARGIN, top + 44 + 25 * line), note, 18, FAINT, "la")
        for column, t in enumerate(moments):
            place = (left + column * (cell_width + GAP), top)
            panel = (view.frames[t], None, view.heat(t), view.dimmed(t))[row]
            if row == 1 and t in view.seen:
                panel = view.frames[t]
            _paste(image, panel, place, cell)
            if row == 2 and view.kept[t].all():
                _text(draw, (place[0] + cell[0] / 2, top + cell[1] / 2), "anchor: kept whole", 18, INK, "mm")
        top += cell[1] + GAP
        if row == 1:
            marks = np.isin(np.arange(frames), view.seen).astype(float)
            _text(draw, (left - 20, top + 13), "frames seen", 16, FAINT, "rm")
            top = _draw_timeline(draw, marks, moments, (left, top, strip))
        if row == 3:
            _text(draw, (left - 20, top + 13), "share of each frame", 16, FAINT, "rm")
            top = _draw_timeline(draw, view.kept.sum(axis=(1, 2)) / per_frame, moments, (left, top, strip))
    return image


def draw_moments(view: ClipView, panel_width: int = 480) -> Iterator[Image.Image]:
    """The four panels at every sampled frame in turn: T pictures of one size, with even sides."""
    height, width = view.frames.shape[1:3]
    panel_width = min(panel_width, round(0.9 * panel_width * width / height))
    cell = (2 * (panel_width // 2), 2 * round(panel_width * height / width / 2))
    scale = panel_width / 480
    margin, gap, name_height = (2 * round(v * scale / 2) for v in (28, 16, 34))
    head = 2 * round(33 * scale)
    size = (2 * (margin + cell[0]) + gap, 2 * (margin + cell[1] + name_height) + gap + head)
    figures = " · ".join(f"{value} {label}" for label, value in view.figures)
    while _font(round(16 * scale)).getlength(figures) > size[0] - 2 * margin:
        figures = figures.rpartition(" · ")[0]
    for t in range(len(view.frames)):
        image = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(image)
        _text(draw, (margin, margin), _shorten(view.title, 34), round(26 * scale), INK, "la")
        _text(draw, (size[0] - margin, margin + 4 * scale), view.caption(t), round(20 * scale), FAINT, "ra")
        _text(draw, (margin, margin + 36 * scale), figures, round(16 * scale), FAINT, "la")
        last = int(view.seen[view.seen <= t].max())
        age = view.timestamps[t] - view.timestamps[last]
        panels = [
            ("frame", f"{t + 1} of {len(view.frames)}", view.frames[t]),
            ("uniform", "seen now" if last == t else f"last seen {age:.2f} s ago", view.frames[last]),
            ("energy", "", view.heat(t)),
            ("kept", f"{view.kept[t].sum():,} of {view.kept[t].size:,} patches", view.dimmed(t)),
        ]
        start = size[1] - margin - 2 * (cell[1] + name_height) - gap
        for i, (name, note, panel) in enumerate(panels):
            x, y = margin + (i % 2) * (cell[0] + gap), start + (i // 2) * (cell[1] + name_height + gap)
            _text(draw, (x, y + 3 * scale), name, round(20 * scale), INK, "la")
            _text(draw, (x + cell[0], y + 5 * scale), note, round(17 * scale), FAINT, "ra")
            _paste(image, panel, (x, y + name_height), cell)
        done = (size[0] - 2 * margin) * (t + 1) / len(view.frames)
        draw.rectangle((margin, size[1] - margin // 2, margin + done, size[1] - margin // 2 + 2), fill=ACCENT)
        yield image


def save(view: ClipView, path: str | Path, progress: Progress = lambda pictures, total: pictures) -> None:
    """Draw `view` into `path`: .png is the sheet, .gif and .mp4 show the moments at the clip's own pace.

    Args:
        view: what to draw.
        path: the file; folders that are missing are made.
        progress: wraps the pictures of an animation, e.g. in a progress bar; gets them and their number.

    Raises:
        ValueError: for another suffix.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        draw_sheet(view).save(path, optimize=True)
        return
    pace = float(np.median(np.diff(view.timestamps))) if len(view.timestamps) > 1 else 1.0
    pace = min(max(pace, 1 / 30), 1.0)
    if path.suffix.lower() == ".gif":
        _save_gif(progress(draw_moments(view, panel_width=300), len(view.frames)), path, pace)
    else:
        _save_mp4(progress(draw_moments(view), len(view.frames)), path, pace)


def check_suffix(path: str | Path) -> Path:
    """`path` as a Path, or a ValueError if nothing can be drawn into a file of that name."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        found = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise ValueError(
            f"{path}: the picture is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, found {found}"
        )
    return path


def _save_gif(pictures: Iterable[Image.Image], path: Path, pace: float) -> None:
    # One palette for all, taken from four of them, keeps what stands still from flickering.
    pictures = list(pictures)
    chosen = [np.asarray(pictures[len(pictures) * i // 4]) for i in range(4)]
    palette = Image.fromarray(np.concatenate(chosen)).quantize(256, method=Image.Quantize.MEDIANCUT)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    milliseconds = max(20, 10 * round(100 * pace))  # the format counts hundredths of a second
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )


def _save_mp4(pictures: Iterable[Image.Image], path: Path, pace: float) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1 / pace).limit_denominator(1000))
        stream.codec_context.options = {"crf": "20", "preset": "medium"}
        for index, picture in enumerate(pictures):
            if not index:
                stream.width, stream.height = picture.size
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_image(picture)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _moments(view: ClipView, columns: int) -> list[int]:
    """Which sampled frames get a column: first to last, evenly.

    As many columns as uniform sampling has frames would show those and no others, as if it missed nothing.
    """
    frames = len(view.frames)
    if columns == len(view.seen) < frames:
        columns -= 1
    return sorted(set(np.floor(np.linspace(0, frames - 1, min(columns, frames))).astype(int).tolist()))


def _draw_header(draw: ImageDraw.ImageDraw, view: ClipView, width: int) -> None:
    _text(draw, (MARGIN, MARGIN - 8), _shorten(view.title, 44), 44, INK, "la")
    _text(draw, (width - MARGIN, MARGIN + 10), view.subtitle, 22, FAINT, "ra")
    widths = [max(_font(32).getlength(value), _font(19).getlength(label)) for label, value in view.figures]
    spare = (width - 2 * MARGIN - sum(widths)) / max(len(widths), 1)
    x = float(MARGIN)
    for index, (label, value) in enumerate(view.figures):
        draw.line((x, 130, x, 196), RULE if index else ACCENT, 3)
        _text(draw, (x + 18, 126), value, 32, INK, "la")
        _text(draw, (x + 18, 172), label, 19, FAINT, "la")
        x += widths[index] + spare


def _draw_timeline(
    draw: ImageDraw.ImageDraw, values: np.ndarray, moments: Sequence[int], place: tuple[int, int, int]
) -> int:
    """A bar a sampled frame, as high as its value in 0..1, bright if it has a column. Returns the end."""
    left, top, width = place
    height, step = 26, width / len(values)
    for t, value in enumerate(values):
        start, end = left + t * step, left + (t + 1) * step - max(1, min(4, step / 4))
        draw.rectangle((start, top, end, top + height), fill=PANEL)
        if value > 0:
            colour = ACCENT if t in moments else tuple(round(0.55 * c) for c in ACCENT)
            draw.rectangle((start, top + height - max(2, height * value), end, top + height), fill=colour)
    return top + 44


def _paste(
    image: Image.Image, panel: np.ndarray | None, place: tuple[int, int], size: tuple[int, int]
) -> None:
    """Put a panel where it belongs; an empty one says that nothing was sampled there."""
    if panel is None:
        draw = ImageDraw.Draw(image)
        x, y = place
        draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), PANEL)
        _text(draw, (x + size[0] / 2, y + size[1] / 2), "not sampled", 18, FAINT, "mm")
        return
    picture = Image.fromarray(np.ascontiguousarray(panel))
    image.paste(picture.resize(size, Image.Resampling.LANCZOS), place)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(size, 11))


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], words: str, size: int, fill: tuple, anchor: str
) -> None:
    draw.text(place, words, fill=fill, font=_font(size), anchor=anchor)


def _shorten(words: str, limit: int) -> str:
    """Long file names lose their middle."""
    half = (limit - 3) // 2
    return words if len(words) <= limit else f"{words[:half]}...{words[-half:]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
