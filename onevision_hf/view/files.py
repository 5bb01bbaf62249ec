"""Into which files a view is drawn: a sheet as PNG, its moments as GIF or MP4."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from .clip_view import ClipView
from .moments import draw_moments
from .sheet import draw_sheet

SUFFIXES = (".png", ".gif", ".mp4")

Progress = Callable[[Iterable[Image.Image], int], Iterable[Image.Image]]


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
        draw_sheet(view).save(path)
        return
    pace = float(np.median(np.diff(view.timestamps))) if len(view.timestamps) > 1 else 1.0
    pace = min(max(pace, 1 / 30), 1.0)
    if path.suffix.lower() == ".gif":
        _save_gif(progress(draw_moments(view, panel_width=300), len(view.frames)), path, pace)
    else:
        save_mp4(progress(draw_moments(view), len(view.frames)), path, pace)


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


def save_mp4(pictures: Iterable[Image.Image], path: Path, pace: float) -> None:
    """A film of pictures of one size, with even sides.

    Args:
        pictures: one after the other; one is held at a time.
        path: the file.
        pace: seconds of a picture.
    """
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
