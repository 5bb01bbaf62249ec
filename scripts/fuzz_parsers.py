"""Coverage-guided fuzzing of what parses headers, boxes, tables and configs, by Atheris (libFuzzer).

    make fuzz-parsers                                                       # a minute of each
    python scripts/fuzz_parsers.py slice-headers --seconds 3600 --out out/fuzz-parsers
    python scripts/fuzz_parsers.py mp4-boxes --replay out/fuzz-parsers/mp4-boxes/found/4f1c...

What the parsers owe stands in `tests/parser_targets.py`. Inputs that break it are kept, one for each place in
the code, and the run goes on. Prints a line a target: executions, lines of the parsers that were reached,
inputs kept, seconds of wall and of processor, what was found; status 1 if anything was. Atheris must be on
the path: `pip install --target .atheris atheris`, PYTHONPATH=.atheris.
"""

import argparse
import hashlib
import inspect
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]
# What each target parses with: of these files the lines reached are counted.
FILES = {
    "parameter-sets": [
        f"modeling/{name}.py"
        for name in ("bitstream", "h264_bitstream", "hevc_sequence", "parameter_sets", "vvc_sequence")
    ],
    "slice-headers": [
        f"modeling/{codec}.py"
        for codec in (
            *("hevc_bitstream", "hevc_slices", "vvc_bitstream", "vvc_pictures", "av1_bitstream"),
            *("av1_filters", "av1_headers", "vp8_bitstream", "vp9_bitstream"),
        )
    ],
    "mp4-boxes": ["modeling/mp4_boxes.py"],
    "ebml": ["modeling/video_formats.py"],
    "manifests": ["data/captions.py", "data/conversations.py"],
    "configs": ["training/config.py", "training/schema.py", "modeling/patchify_config.py"],
}
MAX_BYTES = 4096
SECONDS_OF_ONE = 5  # of the processor: an input that takes longer is a finding
SECONDS_OF_HANG = 120  # of wall: a machine may be busy
MEGABYTES = 2048  # a process with more is one too


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(FILES)}; all without")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for inputs and logs, with which another run goes on")
    parser.add_argument("--replay", type=Path, help="an input to run once")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - FILES.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(FILES)}")
    if arguments.replay:
        from parser_targets import TARGETS

        TARGETS[arguments.targets[0]](arguments.replay.read_bytes())
        return 0
    if arguments.child:
        fuzz(arguments.targets[0], arguments.out, arguments.seconds, arguments.seed)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for target in arguments.targets or FILES:
            folder = (arguments.out or Path(scratch)) / target
            results.append(run(target, folder, arguments.seconds, arguments.seed))
            print(json.dumps(results[-1]), flush=True)
    return 1 if any(result["found"] for result in results) else 0


def run(target: str, folder: Path, seconds: int, seed: int) -> dict[str, Any]:
    """Fuzz a target in processes of its own: one that an input ends is followed by another.

    Args:
        target: of `FILES`.
        folder: for the inputs that reach something new, those that break a promise, and libFuzzer's log.
        seconds: of wall time.
        seed: of libFuzzer; further processes count on.

    Returns:
        The line that is printed.
    """
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    (folder / "found").mkdir(exist_ok=True)
    begin, processor = time.monotonic(), _processor_seconds()
    log, number = folder / "log.txt", 0
    while (left := seconds - (time.monotonic() - begin)) > 1:
        command = [sys.executable, __file__, target, "--child", "--out", str(folder)]
        command += ["--seconds", str(int(left)), "--seed", str(seed + number)]
        with open(log, "ab") as file:
            ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
        number += 1
        if ended.returncode and not any((folder / "found").iterdir()):
            raise SystemExit(f"{target}: the fuzzer ended with {ended.returncode}, see {log}")
    text = log.read_text(errors="replace")
    states = re.findall(r"#\d+\s+\w+\s+cov: (\d+) ft: (\d+)", text)
    reached, there = lines_reached(target, sorted((folder / "inputs").iterdir()))
    return {
        "target": target,
        "seed": seed,
        "executions": sum(map(int, re.findall(r"number_of_executed_units: (\d+)", text))),
        "edges": int(states[-1][0]) if states else 0,
        "features": int(states[-1][1]) if states else 0,
        "lines": f"{reached} of {there}",
        "inputs": len(list((folder / "inputs").iterdir())),
        "wall_s": round(time.monotonic() - begin),
        "processor_s": round(_processor_seconds() - processor),
        "processes": number,
        "found": sorted(path.name for path in (folder / "found").iterdir() if path.suffix != ".txt"),
    }


def fuzz(target: str, folder: Path, seconds: int, seed: int) -> None:
    """One process of libFuzzer, which ends it."""
    import atheris

    with atheris.instrument_imports(include=["onevision_hf"], enable_loader_override=False):
        from parser_targets import TARGETS, starts

        TARGETS[target](b"")  # which imports the rest

    if not any((folder / "inputs").iterdir()):
        from clip_zoo import Zoo

        with tempfile.TemporaryDirectory() as scratch:
            for data in starts(Zoo(Path(scratch)))[target]:
                name = hashlib.sha256(data).hexdigest()[:16]
                (folder / "inputs" / name).write_bytes(data[:MAX_BYTES])
    check, seen = TARGETS[target], set()

    def once(data: bytes) -> None:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:  # run by root it makes itself a real-time process
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        begin = time.process_time()
        try:
            check(data)
            used = time.process_time() - begin
            assert used < SECONDS_OF_ONE, f"it took {used:.1f} s of the processor"
        except BaseException as error:
            key = _key_of(error)
            if key not in seen:
                seen.add(key)
                (folder / "found" / key).write_bytes(data)
                (folder / "found" / f"{key}.txt").write_text(traceback.format_exc())
                print(f"FOUND {key}: {error!r}"[:400], flush=True)

    atheris.Setup(
        [
            target,
            str(folder / "inputs"),
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-max_len={MAX_BYTES}",
            f"-timeout={SECONDS_OF_HANG}",
            f"-report_slow_units={SECONDS_OF_HANG}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-artifact_prefix={folder / 'found'}/",
            "-print_final_stats=1",
        ],
        once,
    )
    atheris.Fuzz()


def _key_of(error: BaseException) -> str:
    """One for each kind of error and place, of the package or of what is promised, that it was raised at."""
    places = [f"{place.filename}:{place.lineno}" for place in traceback.extract_tb(error.__traceback__)]
    ours = [place for place in places if "onevision_hf/" in place or "parser_targets" in place] or places
    return f"{type(error).__name__}-{hashlib.sha256(ours[-1].encode()).hexdigest()[:8]}"


def lines_reached(target: str, inputs: list[Path]) -> tuple[int, int]:
    """(lines in the functions of the target's modules that the inputs run, all lines in them)."""
    from parser_targets import TARGETS

    TARGETS[target](b"")  # without what it imports
    package = Path(__file__).parents[1] / "onevision_hf"
    files = {str(package / name) for name in FILES[target]}
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    for path in inputs:
        try:
            TARGETS[target](path.read_bytes())
        except Exception:  # it was found and told already
            continue
    sys.settrace(None)
    there = set().union(*map(_lines_in_functions, files))
    return len(reached & there), len(there)


def _lines_in_functions(file: str) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    waiting = [(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), False)]
    while waiting:
        code, is_function = waiting.pop()
        if is_function:
            found |= {(file, line) for *_, line in code.co_lines() if line and line != code.co_firstlineno}
        # The body of a class, which an import runs, is code too.
        waiting += [
            (inner, bool(inner.co_flags & inspect.CO_OPTIMIZED))
            for inner in code.co_consts
            if isinstance(inner, CodeType)
        ]
    return found


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
