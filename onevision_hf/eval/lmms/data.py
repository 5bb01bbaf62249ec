"""The data of the suite: what must be where below a root, how large it is, and whether it is there.

    for state in inspect(select("video"), Path("data")):
        print(state.benchmark.name, state.tables, state.found, state.missing)

A root is both HF_HOME of lmms-eval (its folders of videos) and its working directory (tables, as
`root/OWNER/NAME`). What lmms-eval downloaded itself, in the Hugging Face caches below the root, counts as
well.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...modeling.video_reader import VideoReader, VideoReadError
from .suite import Benchmark

VIDEOS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
TABLES = (".parquet", ".json", ".jsonl", ".csv", ".arrow")
# Clips of a folder that are opened and read from, spread over it.
DECODED = 3


@dataclass
class State:
    """What was found of one benchmark's data.

    Attributes:
        table_folder: where its tables may lie.
        tables: how many files of them there are.
        rows: questions in them, None where they cannot be counted without lmms-eval's settings.
        videos: how many there are; None for benchmarks of images.
        decoded: clips that were read from.
        broken: clips that could not be, with the reason.
        gigabytes: of the whole data set by the Hub, None where it is not known.
    """

    benchmark: Benchmark
    table_folder: Path
    tables: int = 0
    rows: int | None = None
    videos: int | None = None
    decoded: int = 0
    broken: list[str] = field(default_factory=list)
    gigabytes: float | None = None

    @property
    def missing(self) -> list[str]:
        """What is wrong, in words; empty when it can run."""
        wrong = []
        if not self.tables:
            wrong.append("no tables")
        expected = self.benchmark.documents
        if self.rows is not None and expected and self.rows != expected:
            wrong.append(f"{self.rows} questions, not {expected}")
        if self.videos == 0:
            wrong.append("no videos")
        return wrong + self.broken


def inspect(
    benchmarks: Sequence[Benchmark], root: Path, size_of: Callable[[Benchmark], float | None] | None = None
) -> Iterator[State]:
    """Each data set once, in the order of the rows.

    Args:
        benchmarks: rows of the suite.
        root: where data lie.
        size_of: gives the gigabytes of one, or None.
    """
    seen: set[tuple[str, str | None]] = set()
    for benchmark in benchmarks:
        if (benchmark.task, benchmark.config) in seen:
            continue
        seen.add((benchmark.task, benchmark.config))
        state = State(benchmark, root / benchmark.dataset)
        tables = _tables(benchmark, root)
        state.tables, state.rows = len(tables), _rows(benchmark, tables)
        if benchmark.folder:
            _look_at_videos(state, root / benchmark.folder)
        if size_of is not None:
            state.gigabytes = size_of(benchmark)
        yield state


def hub_size(benchmark: Benchmark) -> float | None:
    """Gigabytes of a data set on the Hub; None where it cannot be reached."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(
            benchmark.dataset, revision=benchmark.revision or None, files_metadata=True, timeout=20
        )
    except Exception:
        return None  # offline, gated, gone: the caller says that it is not known
    return sum(file.size or 0 for file in info.siblings or ()) / 1e9


def fetch(benchmarks: Sequence[Benchmark], root: Path) -> dict[str, str]:
    """Have lmms-eval download and unpack what is missing; by task, what went wrong."""
    from .run import data_from, load_tasks, no_downloads, require_lmms_eval, task_manager_of

    require_lmms_eval()
    root.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    with data_from(root), no_downloads():
        manager = task_manager_of(benchmarks)
        for name in dict.fromkeys(benchmark.task for benchmark in benchmarks):
            try:
                load_tasks([name], manager)
            except ValueError as error:
                failed[name] = str(error)
        if any(benchmark.task == "ocrbench_v2" for benchmark in benchmarks):
            import nltk

            if not nltk.download("wordnet", download_dir=str(root / "nltk_data"), quiet=True):
                failed["ocrbench_v2 (WordNet)"] = "nltk could not download it"
    return failed


def _tables(benchmark: Benchmark, root: Path) -> list[Path]:
    """Files of the tables: in a folder of that name, or in the caches of the Hub and of `datasets`."""
    owner, name = benchmark.dataset.split("/")
    folders = [
        root / benchmark.dataset,
        root / "hub" / f"datasets--{owner}--{name}",
        root / "datasets" / f"{owner}___{name.lower()}",
    ]
    for folder in folders:
        found = [
            path
            for path in sorted(folder.rglob("*"))
            if path.suffix in TABLES and path.is_file() and _belongs(benchmark, path.relative_to(folder))
        ]
        if found:
            return found
    return []


def _belongs(benchmark: Benchmark, path: Path) -> bool:
    """Whether a file is of this benchmark's configuration, and of its split where its name says one."""
    if path.name in ("dataset_infos.json", "dataset_info.json", "state.json"):
        return False
    others = {"DocVQA", "InfographicVQA", "MC", "OE", "en", "cn", "ScienceQA-FULL", "ScienceQA-IMG"}
    configs = {*path.parts[:-1]} & others
    if configs and benchmark.config not in configs:
        return False
    splits = [name for name in ("train", "validation", "val", "test", "dev", "testdev")
              if path.name.startswith(f"{name}-")]  # fmt: skip
    return not splits or benchmark.split in splits


def _rows(benchmark: Benchmark, tables: list[Path]) -> int | None:
    """Rows of parquet tables; JSON and Arrow are counted by lmms-eval."""
    if not tables or any(path.suffix != ".parquet" for path in tables):
        return None
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in tables)


def _look_at_videos(state: State, folder: Path) -> None:
    videos = sorted(path for path in _files(folder) if path.suffix in VIDEOS)
    state.videos = len(videos)
    spread = {round(i * (len(videos) - 1) / (DECODED - 1)) for i in range(DECODED if videos else 0)}
    for index in sorted(spread):
        try:
            with VideoReader(str(videos[index])) as reader:
                next(iter(reader.frames([len(reader) // 2])))
            state.decoded += 1
        except VideoReadError as error:
            state.broken.append(str(error))


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(where) / name


def describe(state: State) -> dict[str, Any]:
    """A state as plain values."""
    benchmark = state.benchmark
    return {
        "name": benchmark.name,
        "task": benchmark.task,
        "dataset": benchmark.dataset,
        "config": benchmark.config,
        "split": benchmark.split,
        "revision": benchmark.revision or "main",
        "tables_at": str(state.table_folder),
        "videos_at": benchmark.folder,
        "gigabytes": state.gigabytes,
        "questions": state.rows,
        "expected": benchmark.documents,
        "videos": state.videos,
        "decoded": state.decoded,
        "missing": state.missing,
    }
