"""Sound files of every codec and container, and ways to damage them; file `number` of a seed is always one.

sound = sound_files(Zoo(folder))           # name -> path
name, damage, data = damaged(sound, 17, seed=3)
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from clip_zoo import Zoo, find_box, remux

# Containers that the zoo has no clip in, of its packets as they are: the rest of what `video_formats` allows.
OTHER_CONTAINERS = {
    "h264.flv": "h264-bframes.mp4",
    "h264.nut": "h264-bframes.mp4",
    "h264.h264": "h264-bframes.ts",
    "hevc.hevc": "hevc-10-bit.ts",
    "vp9.ivf": "vp9-hidden.webm",
    "vp8.ogg": "vp8.mkv",
    "mpeg2.mxf": "mpeg2.ts",
    "mpeg2.m2v": "mpeg2.ts",
    "mpeg2.wtv": "mpeg2.ts",
    "mpeg4.m4v": "mpeg4.avi",
    "h263.h263": "h263.avi",
}
VVC = Path(__file__).parent / "fixtures" / "vvc"


def sound_files(zoo: Zoo) -> dict[str, Path]:
    """All of the zoo, further containers, and the VVC that no encoder here writes; by name."""
    found = {name: zoo[name] for name in Zoo.names()}
    for name, source in OTHER_CONTAINERS.items():
        found[name] = zoo.folder / name
        if not found[name].exists():
            remux(zoo[source], found[name])
    return found | {f"vvc-{path.name}": path for path in sorted(VVC.iterdir())}


def files_in(folder: Path) -> dict[str, Path]:
    """The files of a folder that a video may be in, by name."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".md"}


def damaged(sound: Mapping[str, Path], number: int, seed: int = 0) -> tuple[str, str, bytes]:
    """(name of the file, what was done to it, the damaged bytes) of file `number`."""
    rng = np.random.default_rng((seed, number))
    names = list(sound)
    name = names[number % len(names)]
    damage = DAMAGES[number // len(names) % len(DAMAGES)]
    data = bytearray(sound[name].read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        damage(data, rng, sound)
        if not data:
            break
    return name, damage.__name__, bytes(data)


def flip_bits(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 40)):
        data[place] ^= 1 << int(rng.integers(8))


def cut(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    start = int(rng.integers(0, len(data)))
    if rng.random() < 0.5:
        del data[start:]
    else:
        del data[start : start + int(rng.integers(1, 4000))]


def swap_packets(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    size = int(rng.integers(32, 600))
    a, b = sorted(rng.integers(0, max(1, len(data) - size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def wrong_header(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    start, count = int(rng.integers(0, 512)), int(rng.integers(1, 64))
    data[start : start + count] = rng.bytes(count)


def giant_sizes(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    """Whole 32-bit words become as large as they can be, in the index where there is one."""
    try:
        start, end = find_box(bytes(data), "moov")
    except StopIteration:
        start, end = 0, len(data)
    for place in rng.integers(start, max(start + 1, end - 4), rng.integers(1, 4)):
        data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"][
            int(rng.integers(3))
        ]


def loop_index(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
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


def splice(data: bytearray, rng: np.random.Generator, sound: Mapping[str, Path]) -> None:
    """A stretch of another file, which may be of another codec, takes the place of one of this."""
    other = list(sound.values())[int(rng.integers(len(sound)))].read_bytes()
    start, size = int(rng.integers(0, len(other))), int(rng.integers(16, 4000))
    place = int(rng.integers(0, len(data)))
    data[place : place + (size if rng.random() < 0.5 else 0)] = other[start : start + size]


def harm_sets(data: bytearray, rng: np.random.Generator, _: Mapping[str, Path]) -> None:
    """Bits behind what begins a parameter set or a sequence; of the first packets where there is none."""
    marks = (b"avcC", b"hvcC", b"av1C", b"vvcC", b"vpcC", b"\0\0\1\x67", b"\0\0\1\x42", b"\0\0\1\xb3")
    places = [at + len(mark) for mark in marks if (at := data.find(mark)) >= 0] or [len(data) // 4]
    start = places[int(rng.integers(len(places)))]
    for place in start + rng.integers(0, 60, rng.integers(1, 6)):
        if place < len(data):
            data[place] ^= 1 << int(rng.integers(8))


Damage = Callable[[bytearray, np.random.Generator, Mapping[str, Path]], None]
DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    cut,
    swap_packets,
    wrong_header,
    giant_sizes,
    loop_index,
    splice,
    harm_sets,
)


def shrunk(data: bytes, still: Callable[[bytes], bool], trials: int = 200) -> bytes:
    """The data with whatever can be left out so that they are `still` of interest.

    Args:
        data: of interest.
        still: whether others are.
        trials: at most so many are asked for.
    """
    size = len(data) // 2
    while size >= 16 and trials > 0:
        place = len(data)
        while place > 0 and trials > 0:
            shorter = data[: max(0, place - size)] + data[place:]
            trials -= 1
            if shorter and still(shorter):
                data = shorter
            place -= size
        size //= 2
    return data
