"""Speed and memory of codec patchification, as ratios to a plain PyAV decode of the whole file.

    make bench-codec                        # ONEVISION_CLIPS names the folder with the real clips
    make bench-codec ONLY=beach,1080p       # some of the rows
    ONEVISION_PEER_PYTHON=peer/bin/python make bench-codec ONLY=peer

Each ratio is the median of several turns in which both sides run one after the other. Memory is what a
process of its own needs at its peak above what it held before, without the tensors that it returns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from clips import moving_scene, write_clip

DENSE_BYTES = 64 * 3 * 224 * 224 * 4


def plain_decode(path: str) -> int:
    """Every frame of the file, slice-threaded, nothing done with them."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        return sum(1 for _ in container.decode(stream))


def processor(path: str, **settings) -> None:
    from onevision_hf import OneVisionVideoProcessor

    OneVisionVideoProcessor()(path, return_tensors="pt", **settings)


def signal_alone(path: str, preset: str = "auto") -> None:
    from onevision_hf.modeling.frame_geometry import FrameGeometry
    from onevision_hf.modeling.frame_sampling import sample_frame_ids
    from onevision_hf.modeling.signal_energy import frame_energies
    from onevision_hf.modeling.signal_settings import SignalSettings
    from onevision_hf.modeling.video_reader import VideoReader

    with VideoReader(path) as reader:
        geometry = FrameGeometry.fit(reader.height, reader.width, 224, 14)
        settings = SignalSettings(preset=preset)
        frame_energies(reader, sample_frame_ids(len(reader), 64), geometry, settings)


def sample_keyframes(path: str, offset: float = 0.0, cut: bool = False) -> float:
    """A selection at one frame every 2 s, `offset` seconds behind the keyframes: packets read for it, as a
    share of the file's, besides those of the index. With `cut`, patches are cut from the frames too."""
    from onevision_hf import VideoReader
    from onevision_hf.modeling.patchify_config import PatchifyConfig
    from onevision_hf.modeling.video_demuxer import Demuxer

    seen, plain = 0, Demuxer.__iter__

    def counted(self):
        nonlocal seen
        for item in plain(self):
            seen += 1
            yield item

    with VideoReader(path) as reader:
        times = np.arange(offset, reader.duration - 0.1, 2.0).tolist()
        Demuxer.__iter__ = counted
        try:
            config = PatchifyConfig.from_dict({"timestamps": times})
            (config.patchify if cut else config.select)(reader)
        finally:
            Demuxer.__iter__ = plain
        return seen / len(reader)


def keyframe_clip(path: Path, minutes: int) -> Path:
    """320 x 240 at 10 frames a second, a keyframe every 2 s."""
    piece = path.with_name("piece.mp4")
    write_clip(piece, moving_scene(60, 240, 320, seed=3), gop=20, fps=10)
    return repeated(str(piece), path, 60 * minutes)


def dense_route(path: str) -> np.ndarray:
    """Without a selection: decode the file, resize and crop 64 frames to 224 x 224, normalise."""
    mean, std = (np.array(values, np.float32) for values in ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276)))
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        wanted = {int(frame_id) for frame_id in np.linspace(0, stream.frames - 1, 64)}
        scale = 224 / min(stream.height, stream.width)
        height, width = round(stream.height * scale), round(stream.width * scale)
        top, left = (height - 224) // 2, (width - 224) // 2
        clip, place = np.empty((64, 3, 224, 224), np.float32), 0
        for frame_id, frame in enumerate(container.decode(stream)):
            if frame_id not in wanted:
                continue
            small = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
            picture = small.to_ndarray()[top : top + 224, left : left + 224]
            clip[place] = ((picture / np.float32(255) - mean) / std).transpose(2, 0, 1)
            place += 1
    return clip


def ratio(ours: Callable[[], object], reference: Callable[[], object], turns: int = 9) -> float:
    """Median of `ours` / `reference`, after one turn that is not counted."""
    found = []
    for turn in range(turns + 1):
        begin = time.perf_counter()
        reference()
        middle = time.perf_counter()
        ours()
        if turn:
            found.append((time.perf_counter() - middle) / (middle - begin))
    return median(found)


def noisy_1080p(path: Path, bframes: int) -> Path:
    """240 frames of a moving textured scene with noise, 1920 x 1080, x264 medium, keyint 250."""
    frames, noise = moving_scene(240, 270, 480, seed=5), np.random.default_rng(5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        # One slice a picture, as x264 writes by default; PyAV's default would cut each into slices.
        options = {"preset": "medium", "g": "250", "bf": str(bframes)}
        stream.options = options | {"x264-params": "sliced-threads=0:slices=1"}
        for t, small in enumerate(frames):
            picture = small.repeat(4, 0).repeat(4, 1).astype(np.int16)
            picture += noise.integers(-6, 7, picture.shape[:2], np.int16)[..., None]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts = t
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def repeated(source: str, path: Path, seconds: float) -> Path:
    """The packets of a clip over and over until `seconds` are full: a long stream without encoding one."""
    with av.open(source) as given:
        stream = given.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in given.demux(stream) if p.size]
        step = round(1 / stream.average_rate / stream.time_base)
        length, base = step * len(packets), stream.time_base
        with av.open(str(path), "w") as container:
            out = container.add_stream_from_template(stream)
            for turn in range(max(1, round(seconds / float(length * base)))):
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base, packet.is_keyframe = out, Fraction(base), key
                    packet.pts, packet.dts = pts + turn * length, dts + turn * length
                    container.mux(packet)
    return path


def peak_memory(path: str, what: str) -> int:
    """Bytes at the peak of a fresh process, above what it held before and what it returns."""
    code = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import codec
from onevision_hf import OneVisionVideoProcessor, bundled_clip
processor = OneVisionVideoProcessor(do_center_crop=True)
settings = dict(keep_ratio=0.125, return_tensors="np")
run = codec.dense_route if {what!r} == "dense" else lambda path: processor(path, **settings)
processor(str(bundled_clip()), num_frames=4, return_tensors="np")   # libraries and first allocations
def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
result = run({path!r})
returned = result.nbytes if {what!r} == "dense" else sum(value.nbytes for value in result.values())
print(json.dumps(status("VmHWM") - before - returned))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


PEER = """
import sys, time
from statistics import median
import av
from codec_video_prep.cv_reader_fast import read_video_fast
found = []
for turn in range(8):
    begin = time.perf_counter()
    with av.open(sys.argv[1]) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        sum(1 for _ in container.decode(stream))
    middle = time.perf_counter()
    read_video_fast(sys.argv[1], 2, export_bitcost=1, thread_type="slice")
    if turn:
        found.append((time.perf_counter() - middle) / (middle - begin))
print(median(found))
"""


def peer(path: str, python: str) -> float:
    """`codec-video-prep` 0.2.5 (a patched FFmpeg, Linux) reading the bits of every block: its ratio.

    It wants numpy < 2, so `ONEVISION_PEER_PYTHON` names the Python of an environment of its own.
    """
    done = subprocess.run([python, "-c", PEER, path], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def painted_rows(folder: Path, beach: str | None) -> Iterator[tuple[str, str, str]]:
    """(what, measured, limit) of painted references: the real clip in other codecs, and 1080p."""
    import painted

    for name, (codec, options, pix_fmt, suffix, limit) in painted.REAL.items():
        if beach:
            path = str(folder / f"beach.{suffix}")
            painted.recode(beach, Path(path), codec, options, pix_fmt)
            what = f"beach as {name}: one pass over paint with 64 fields, processor time"
            yield what, f"{painted.one_pass_ratio(path):.2f}", limit
            value = ratio(partial(processor, path), partial(plain_decode, path), turns=5)
            yield f"beach as {name}: whole processor", f"{value:.2f}", "<= 2.0"
        path = str(folder / f"large.{suffix}")
        scene = painted.draw_scene(3, 12, 1080, 1920, 24)
        painted.encode(Path(path), scene.frames, codec, options, pix_fmt)
        value = painted.field_milliseconds(path)
        yield f"1080p {name}: a field, milliseconds of a core", f"{value:.1f}", "<= 12"
        peaks = [median(painted.peak_megabytes(path, "paint_all") for _ in range(3))]
        # PyAV cannot copy a stream whose decoder is dav1d.
        for seconds in () if codec == "libsvtav1" else (1, 20):
            path = str(repeated(path, folder / f"{seconds}.{suffix}", seconds))
            peaks.append(median(painted.peak_megabytes(path, "paint_all") for _ in range(3)))
        plain = median(painted.peak_megabytes(path, "decode_all") for _ in range(3))
        yield f"1080p {name}: peak memory above a plain decode", f"{peaks[-1] - plain:+.0f} MB", "<= 40 MB"
        if len(peaks) > 1:
            yield f"1080p {name}: the same, 20 seconds against 1", f"{peaks[2] - peaks[1]:+.0f} MB", "flat"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        default="",
        help="comma-separated: beach, peer, crop, 1080p, keyframes, painted, hour, memory",
    )
    only = set(filter(None, parser.parse_args().only.split(",")))
    clips = os.environ.get("ONEVISION_CLIPS")

    def chosen(name: str) -> bool:
        return not only or name in only

    print("| what | measured | must reach | aim |\n|---|---|---|---|")

    def row(what: str, value: str, limit: str = "", aim: str = "") -> None:
        print(f"| {what} | {value} | {limit} | {aim} |", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beach = str(Path(clips) / "beach.mp4") if clips else None
        if beach is None:
            print("ONEVISION_CLIPS is not set: the real clip's rows are left out", file=sys.stderr)
        if beach and chosen("beach"):
            plain = lambda: plain_decode(beach)  # noqa: E731
            value = ratio(lambda: processor(beach), plain)
            row("64 frames at 224, beach, whole processor", f"{value:.2f}", "<= 1.1", "< 0.9")
            value = ratio(lambda: processor(beach, size=448), plain)
            row("64 frames at 448, beach", f"{value:.2f}", "<= 1.6", "1.2")
            value = ratio(lambda: signal_alone(beach), plain)
            row("signal alone, 64 packets, beach", f"{value:.2f}", "", "0.2")
        python = os.environ.get("ONEVISION_PEER_PYTHON")
        if beach and python and chosen("peer"):
            row("codec-video-prep 0.2.5, bits of all frames, no pixels", f"{peer(beach, python):.2f}")
            value = ratio(lambda: signal_alone(beach, "bits"), partial(plain_decode, beach))
            row("ours, bits of 64 frames, no pixels", f"{value:.2f}")
        if beach and chosen("crop"):
            settings = {"do_center_crop": True, "keep_ratio": 0.125}
            value = ratio(lambda: processor(beach, **settings), lambda: dense_route(beach))
            row("beach, crop 224, 12.5 %, against the dense route: time", f"{value:.2f}", "<= 1.1", "0.8")
            ours = median(peak_memory(beach, "codec") for _ in range(3))
            dense = median(peak_memory(beach, "dense") for _ in range(3))
            value = ours / DENSE_BYTES
            row("the same: extra memory, share of the dense tensor", f"{value:.2f}", "<= 0.25", "0.1")
            row("the dense route's own extra memory, the same share", f"{dense / DENSE_BYTES:.2f}")
        if chosen("1080p"):
            for bframes, limits in ((3, ("<= 1.5", "1.0")), (0, ("", ""))):
                path = str(noisy_1080p(folder / f"noisy{bframes}.mp4", bframes))
                value = ratio(partial(processor, path), partial(plain_decode, path), turns=3)
                row(f"64 frames at 224, 1080p, 240 frames, bframes {bframes}", f"{value:.2f}", *limits)
        if chosen("keyframes"):
            path = str(keyframe_clip(folder / "keyframes.mp4", 20))
            what = "20 minutes, a keyframe every 2 s and a frame of each sampled"
            row(f"{what}: packets read, of the file's", f"{sample_keyframes(path):.2f}", "<= 1.2")
            # Keyframes take longer to decode (20 times the bytes here), frames between them longer to cut.
            for cut, words, limit in ((True, "selected and cut", "<= 1.5"), (False, "selected", "")):
                aligned, between = (partial(sample_keyframes, path, offset, cut) for offset in (0.0, 1.0))
                value = ratio(aligned, between, turns=3)
                row(f"the same, {words}: time, of frames in between", f"{value:.2f}", limit)
        if chosen("painted"):
            for what, value, limit in painted_rows(folder, beach):
                row(what, value, limit)
        source = beach
        if source is None:
            from onevision_hf import bundled_clip

            source = str(bundled_clip())
        if chosen("hour"):
            path = str(repeated(source, folder / "hour.mp4", 3600))
            value = ratio(lambda: processor(path), lambda: plain_decode(path), turns=1)
            row("one hour, 64 frames", f"1/{1 / value:.1f}", "<= 1/8", "1/12")
        if chosen("memory"):
            peaks = []
            for minutes in (1, 10):
                path = str(repeated(source, folder / f"{minutes}.mp4", 60 * minutes))
                peaks.append(median(peak_memory(path, "codec") for _ in range(3)))
            value = (peaks[1] - peaks[0]) / 2**20
            row("peak memory, 10 minutes against 1 minute", f"{value:+.1f} MB", "within 32 MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
