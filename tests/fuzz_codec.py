"""Damages videos and reads each in a child process with limits: a result or `VideoReadError`, nothing else.

    make fuzz                                                          # 2000, of all codecs and containers
    python tests/fuzz_codec.py --count 500 --seed 7 --keep out/fuzz
    python tests/fuzz_codec.py --seed 7 --make 123 --keep out/fuzz     # file 123 again, and how it ends
    python tests/fuzz_codec.py --of FOLDER               # of one's own files: as they are, then damaged

A file is decoded, its signals are read, and the processor is called with two presets. Wrong is: the process
dies, one of the four takes over 5 s of a core, it grows by over 512 MB, raises another error, or gives arrays
of another shape or order than is promised. Prints the figures (seconds of all four) and what failed; status 1
if anything did. Needs fork.
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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from clip_zoo import Zoo
from damaged_files import damaged, files_in, shrunk, sound_files

from onevision_hf import OneVisionVideoProcessor, VideoReader, VideoReadError
from onevision_hf.modeling.codec_signal_reader import read_codec_signals

CORE_SECONDS = 5  # of the processor for each of `READINGS`, over all threads
WALL_SECONDS = 60  # a machine may be busy
MEMORY = 512 << 20  # bytes of memory on top of what the parent has
ADDRESSES = 4 << 30  # bytes of address space likewise: what is asked for and not used
SIZE = 56  # pixels of the shorter side
# The ends of a child that are as they should be.
GOOD = {0: "read", 3: "refused"}


class Ending(NamedTuple):
    """How reading a file ended.

    verdict: one of `GOOD`, or what went wrong.
    seconds: of the processor, for all readings.
    growth: bytes of peak memory above what the child started with.
    """

    verdict: str
    seconds: float
    growth: int


class Outcome(NamedTuple):
    label: str  # with which `--make` makes it again
    name: str
    damage: str
    ending: Ending


def read_in_child(path: Path, seconds: float = CORE_SECONDS, memory: int = MEMORY) -> Ending:
    """How reading a file in a process of its own ends.

    Args:
        path: of the file.
        seconds: of the processor that each reading may take.
        memory: bytes by which it may grow.
    """
    limit = _status("VmSize") + ADDRESSES
    resident = mmap.mmap(-1, 8)  # the child's memory at its start
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        resident[:] = _status("VmRSS").to_bytes(8, "little")
        os._exit(_child(path, limit, seconds))
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - start > WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
            return Ending(f"hung for over {WALL_SECONDS} s", usage.ru_utime + usage.ru_stime, 0)
        time.sleep(0.002)
    used = usage.ru_utime + usage.ru_stime
    growth = max(0, usage.ru_maxrss * 1024 - int.from_bytes(resident[:], "little"))
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        verdict = "never ended" if name == "SIGXCPU" else f"died of {name}"
    elif growth > memory:
        verdict = f"grew by over {memory >> 20} MB"
    else:
        code = os.WEXITSTATUS(status)
        verdict = GOOD.get(code, f"raised something else ({code})")
    return Ending(verdict, used, growth)


def decode(path: Path) -> None:
    """Frames of the whole clip."""
    with VideoReader(path) as reader:
        wanted = np.unique(np.linspace(0, len(reader) - 1, 12).astype(int))
        found = []
        for frame in reader.frames(wanted):
            found.append(frame.frame_id)
            assert frame.rgb(reader.width, reader.height).shape == (reader.height, reader.width, 3)
        assert found == wanted.tolist() and len(reader.timestamps) == len(reader)
        assert np.isfinite(reader.timestamps).all() and (np.diff(reader.timestamps) >= 0).all()


def read_signals(path: Path) -> None:
    signals = read_codec_signals(path, num_frames=8)
    frames, (height, width) = len(signals.frame_ids), signals.picture_sizes.max(0)
    assert frames == len(signals.picture_types) == len(signals.packet_sizes) > 0
    for array, cell, rest in (
        (signals.vectors, 4, (2,)),
        (signals.residual, 16, ()),
        (signals.bits, 16, ()),
    ):
        assert array is None or array.shape == (frames, -(-height // cell), -(-width // cell), *rest)
        assert array is None or not np.isinf(array).any()


def process(path: Path, preset: str) -> None:
    processor = OneVisionVideoProcessor(num_frames=8, size=SIZE, preset=preset)
    _check_inputs(processor(str(path), return_tensors="np", return_metadata=True))


# What users do with a file. Each raises `VideoReadError`, or AssertionError where a shape is wrong.
READINGS = (decode, read_signals, partial(process, preset="auto"), partial(process, preset="published"))


def _check_inputs(inputs: Mapping) -> None:
    (selection,) = inputs["selections"]
    patches, positions = inputs["pixel_values_videos"], inputs["patch_positions"]
    count, side = len(selection.positions), selection.geometry.patch_size
    assert patches.shape == (1, count, 3 * side * side) and patches.dtype == np.float32 and count > 0
    assert np.isfinite(patches).all() and inputs["pixel_attention_mask"].all()
    assert positions.shape == (1, count, 3) and positions.dtype == np.int64
    grid = (len(selection.frame_ids), selection.geometry.grid_height, selection.geometry.grid_width)
    assert (selection.positions >= 0).all() and (selection.positions < grid).all()
    assert len(np.unique(selection.positions, axis=0)) == count
    assert (positions[0, :, 1:] == selection.positions[:, 1:]).all()
    assert (positions[..., 0] >= 0).all() and (positions[..., 0] < 64).all()
    assert selection.energy.shape == grid and (selection.energy >= 0).all()


def run(count: int, sound: Mapping[str, Path], folder: Path, seed: int = 0) -> list[Outcome]:
    """Read `count` damaged files, which are left in `folder` where they fail.

    Args:
        count: of files.
        sound: what is damaged, by name.
        folder: that files are written to.
        seed: of the damage.
    """
    outcomes = []
    for number in range(count):
        name, damage, data = damaged(sound, number, seed)
        path = folder / f"{seed}-{number:04}-{damage}-{name}"
        path.write_bytes(data)
        outcomes.append(Outcome(f"--seed {seed} --make {number}", name, damage, read_in_child(path)))
        _tell(outcomes[-1])
        if outcomes[-1].ending.verdict in GOOD.values():
            path.unlink()
    return outcomes


def _child(path: Path, addresses: int, seconds: float) -> int:
    """Read the file; the status says how it ended."""
    gc.freeze()  # a decoder of the parent that is freed here would wait for threads that only the parent has
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = round(len(READINGS) * seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print about damage
    try:
        for number, reading in enumerate(READINGS):
            begin = time.process_time()
            reading(path)
            if time.process_time() - begin > seconds:
                print(f"{path.name}: reading {number} took over {seconds} s of a core", flush=True)
                return 4
    except VideoReadError:
        return 3
    except BaseException as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        print(f"{path.name}: {type(error).__name__}: {error} ({where})", flush=True)
        return 1
    return 0


def _status(name: str) -> int:
    """A size from /proc/self/status in bytes; 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def _tell(outcome: Outcome) -> None:
    if outcome.ending.verdict not in GOOD.values():
        print(f"FAILED {outcome.label} ({outcome.damage}, {outcome.name}): {outcome.ending}", flush=True)


def _again(sound: Mapping[str, Path], number: int, seed: int, folder: Path, shrink: bool) -> int:
    """Make file `number`, say how it ends, and leave it in `folder`, as small as it fails likewise."""
    name, damage, data = damaged(sound, number, seed)
    path = folder / f"{seed}-{number:04}-{damage}-{name}"
    path.write_bytes(data)
    ending = read_in_child(path)

    def still(shorter: bytes) -> bool:
        path.write_bytes(shorter)
        return read_in_child(path).verdict == ending.verdict

    if shrink:
        path.write_bytes(shrunk(data, still))
    print(f"{path} ({path.stat().st_size} bytes): {ending}")
    return ending.verdict not in GOOD.values()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--make", type=int, help="only this file, which is kept")
    parser.add_argument("--shrink", action="store_true", help="with --make: leave out what can be")
    parser.add_argument("--of", type=Path, help="folder of files to damage instead of drawn ones")
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sound = files_in(arguments.of) if arguments.of else sound_files(Zoo(Path(scratch)))
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.make is not None:
            return _again(sound, arguments.make, arguments.seed, folder, arguments.shrink)
        outcomes = []
        for name, path in sound.items() if arguments.of else ():
            outcomes.append(Outcome(str(path), name, "as it is", read_in_child(path)))
            _tell(outcomes[-1])
        outcomes += run(arguments.count, sound, folder, arguments.seed)
    endings = [outcome.ending for outcome in outcomes]
    verdicts = Counter(ending.verdict for ending in endings)
    print(
        f"seed {arguments.seed}, {len(endings)} files of {len(sound)} sound ones: "
        f"{', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}; "
        f"most of a core {max(e.seconds for e in endings):.2f} s, "
        f"most memory {max(e.growth for e in endings) / 2**20:.0f} MB"
    )
    return 1 if verdicts.keys() - set(GOOD.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
