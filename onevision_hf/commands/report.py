"""What the commands have in common: the bundled clip by its name, stage times, figures for people."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onevision_hf.assets import bundled_clip
from onevision_hf.modeling.video_reader import VideoReader


class Stages(dict[str, float]):
    """Seconds of each stage, by name, in the order in which they ran."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        return "   ".join(f"{name} {seconds:.2f} s" for name, seconds in self.items())


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how much of a clip is kept."""
    parser.add_argument("--num-frames", type=int, help="frames sampled of a clip (default: 64)")
    parser.add_argument("--num-patches", type=int, help="patches kept of a clip (default: 12.5 %% of them)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def clip_path(word: str) -> Path:
    """The path that a CLIP argument means. `bundled` is the package's clip; a file so named is ./bundled."""
    return bundled_clip() if word == "bundled" else Path(word)


def describe_clip(word: str, path: Path, reader: VideoReader) -> dict[str, object]:
    """What the open video at `path` is, which the user called `word`."""
    return {
        "clip": word,
        "path": str(path),
        "codec": reader.codec,
        "width": reader.width,
        "height": reader.height,
        "frames": len(reader),
        "duration": round(reader.duration, 3),
        "bytes": path.stat().st_size,
    }


def readable_bytes(count: float) -> str:
    """1234567 -> "1.2 MB", in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
