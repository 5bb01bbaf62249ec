"""Damages videos and reads each in a child process with limits: a result or `VideoReadError`, nothing else.

    make fuzz-codec                                            # 500 files
    python tests/fuzz_codec.py --count 2000 --seed 7 --keep out/fuzz

Prints one line of figures and the numbers of the files that failed; status 1 if there are any. Needs fork.
"""

import argparse
import gc
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clip_zoo import Zoo, find_box

from onevision_hf import OneVisionVideoProcessor, VideoReadError
from onevision_hf.modeling.codec_signal_reader import read_codec_signals

SEEDS = (
    "h264-bframes.mp4",
    "h264-bframes.mkv",
    "h264-bframes.avi",
    "h264-bframes.ts",
    "fragmented.mp4",
    "hevc-bframes.mp4",
    "vp8-hidden.webm",
    "vp9-hidden.webm",
    "av1.mkv",
    "mpeg4.mp4",
    "mpeg4.avi",
    "mpeg2.mpg",
    "mjpeg-422.mov",
    "sound.mp4",
)
SECONDS = 20
MEMORY = 1 << 30  # bytes of address space on top of what the parent has
# The ends of a child that are as they should be.
GOOD = {0: "read", 3: "refused"}


@dataclass(frozen=True)
class Outcome:
    number: int
    seed: str
    damage: str
    verdict: str
    seconds: float
    growth: int  # bytes of peak memory above what the child started with


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 40)):
        data[place] ^= 1 << int(rng.integers(8))


def cut(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    if rng.random() < 0.5:
        del data[start:]
    else:
        del data[start : start + int(rng.integers(1, 4000))]


def swap_packets(data: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(32, 600))
    a, b = sorted(rng.integers(0, max(1, len(data) - size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def wrong_header(data: bytearray, rng: np.random.Generator) -> None:
    start, count = int(rng.integers(0, 512)), int(rng.integers(1, 64))
    data[start : start + count] = rng.bytes(count)


def giant_sizes(data: bytearray, rng: np.random.Generator) -> None:
    """Whole 32-bit words become as large as they can be, in the index where there is one."""
    try:
        start, end = find_box(bytes(data), "moov")
    except StopIteration:
        start, end = 0, len(data)
    for place in rng.integers(start, max(start + 1, end - 4), rng.integers(1, 4)):
        data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"][
            int(rng.integers(3))
        ]


def loop_index(data: bytearray, rng: np.random.Generator) -> None:
    """All chunks of an mp4 become one, or its tables count to a million; elsewhere a stretch comes again."""
    tables = (b"stco", b"stsz", b"stts", b"stsc", b"elst", b"ctts", b"trun")
    found = [at for name in tables if (at := data.find(name)) >= 0]
    if not found:
        start, size = int(rng.integers(0, len(data))), int(rng.integers(100, 4000))
        data[start:start] = data[start : start + size] * int(rng.integers(1, 30))
        return
    at = found[int(rng.integers(len(found)))] + 8
    if rng.random() < 0.5:
        data[at + 4 : at + 64] = data[at + 4 : at + 8] * 15
    else:
        count = int(rng.choice([1, 1000, 10**6, 1 << 31, (1 << 32) - 1]))
        data[at : at + 4] = count.to_bytes(4, "big")
        if rng.random() < 0.5:
            data[at - 4 : at] = (7).to_bytes(4, "big")  # in stsz: one size for all


DAMAGES = (flip_bits, cut, swap_packets, wrong_header, giant_sizes, loop_index)


def damaged(zoo: Zoo, number: int, seed: int = 0) -> tuple[str, str, bytes]:
    """(name of the clip, what was done to it, the damaged bytes) of file `number`: always the same."""
    rng = np.random.default_rng((seed, number))
    name = SEEDS[number % len(SEEDS)]
    damage = DAMAGES[number // len(SEEDS) % len(DAMAGES)]
    data = bytearray(zoo[name].read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        damage(data, rng)
        if not data:
            break
    return name, damage.__name__, bytes(data)


def read_in_child(path: Path, seconds: float = SECONDS, memory: int = MEMORY) -> tuple[str, float, int]:
    """(verdict, seconds, growth of memory in bytes) of reading a file in a process of its own."""
    limit = _status("VmSize") + memory
    resident = mmap.mmap(-1, 8)  # the child's memory at its start
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        resident[:] = _status("VmRSS").to_bytes(8, "little")
        os._exit(_child(path, limit))
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - start > seconds:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            return f"hung for over {seconds:.0f} s", seconds, 0
        time.sleep(0.002)
    growth = max(0, usage.ru_maxrss * 1024 - int.from_bytes(resident[:], "little"))
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}", time.monotonic() - start, growth
    code = os.WEXITSTATUS(status)
    return GOOD.get(code, f"raised something else ({code})"), time.monotonic() - start, growth


def run(count: int, folder: Path, seed: int = 0, clips: Path | None = None) -> list[Outcome]:
    """Read `count` damaged files, which are left in `folder` while they fail."""
    zoo, outcomes = Zoo(clips or folder), []
    for number in range(count):
        name, damage, data = damaged(zoo, number, seed)
        path = folder / f"{number:04}-{damage}-{name}"
        path.write_bytes(data)
        outcomes.append(Outcome(number, name, damage, *read_in_child(path)))
        if outcomes[-1].verdict in GOOD.values():
            path.unlink()
    return outcomes


def _child(path: Path, memory: int) -> int:
    """Read the file as a user would; the status says how it ended."""
    gc.freeze()  # a decoder of the parent that is freed here would wait for threads that only the parent has
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print about damage
    try:
        read_codec_signals(path, num_frames=8)
        for preset in ("auto", "published"):
            OneVisionVideoProcessor()(str(path), num_frames=8, size=56, preset=preset, return_tensors="np")
    except VideoReadError:
        return 3
    except BaseException as error:
        print(f"{path.name}: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0


def _status(name: str) -> int:
    """A size from /proc/self/status in bytes; 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = run(arguments.count, folder, arguments.seed, clips=Path(scratch))
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    failures = [outcome for outcome in outcomes if outcome.verdict not in GOOD.values()]
    for outcome in failures:
        print(f"FAILED {outcome.number} {outcome.seed} {outcome.damage}: {outcome.verdict}")
    print(
        f"{len(outcomes)} files: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}; "
        f"slowest {max(o.seconds for o in outcomes):.2f} s, "
        f"most memory {max(o.growth for o in outcomes) / 2**20:.0f} MB"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
