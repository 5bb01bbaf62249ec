"""One run of the suite through the installed lmms-eval: load the task files, ask the model, write the report.

    run_suite(SuiteJob(select("all16"), Path("out"), {"pretrained": "DIR", "sampling": "codec"}))

With `root`, data are looked for there: it is lmms-eval's HF_HOME (videos) and its working directory (tables,
as `root/OWNER/NAME`). Started by torch.distributed.run, the processes divide the questions among them and the
first one writes. Task files are loaded for the rows of the suite only: to look through all of lmms-eval's two
thousand takes half of a short run.
"""

import contextlib
import importlib.util
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ...jobs.processes import Processes
from ...jobs.run_folder import write_atomically
from ..video_input import takes_canvases
from .report import SuiteReport, write_report
from .scores import read_rows
from .suite import LMMS_EVAL, REPORTED, Benchmark

ANSWERS, SAMPLES, RESULTS = "answers", "samples", "lmms_eval.json"


@dataclass(frozen=True)
class SuiteJob:
    """What a run is.

    Attributes:
        benchmarks: rows of the table.
        out: the folder of the report, the answers (for going on after a kill) and the samples.
        arguments: of the model, see `Settings`; the journal is in `out`.
        limit: documents of each task; None for all.
        root: where data lie; None for where the Hugging Face libraries keep them.
    """

    benchmarks: Sequence[Benchmark]
    out: Path
    arguments: Mapping[str, Any]
    limit: int | None = None
    root: Path | None = None

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(benchmark.task for benchmark in self.benchmarks))


def run_suite(job: SuiteJob) -> SuiteReport | None:
    """Run and write; the report in the first process, None in the others.

    Raises:
        ImportError: lmms-eval is not installed, or a task needs a module that is not.
        ValueError: the data of a task are missing; an argument of the model is wrong.
    """
    require_lmms_eval()
    out = job.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    arguments = {**job.arguments, "journal": str(out / ANSWERS)}
    if Path(arguments["pretrained"]).is_dir():
        arguments["pretrained"] = str(Path(arguments["pretrained"]).resolve())
    with data_from(job.root), no_downloads():
        check_modules(job.benchmarks)
        from lmms_eval import evaluator

        from .model import OneVisionChat

        model = OneVisionChat(**arguments)
        manager = task_manager_of(job.benchmarks)
        results = evaluator.simple_evaluate(
            model=model,
            tasks=load_tasks(job.tasks, manager),
            task_manager=manager,
            batch_size=1,
            limit=job.limit,
            bootstrap_iters=0,
            log_samples=True,
            cli_args=Namespace(output_path=str(out), process_with_media=False),
        )
        broken = [item for part in Processes.current().gather(model.broken) for item in part]
    if results is None:
        return None
    report = SuiteReport(
        model=str(job.arguments["pretrained"]),
        fingerprint=model.fingerprint,
        settings={
            **model.settings.answer_settings(model.answering.processor),
            "on_error": model.settings.on_error,
        },
        versions=versions(),
        rows=read_rows(
            results, job.benchmarks, [(b.task, b.doc_id) for b in broken if b.counted == "skipped"]
        ),
        broken=sorted(broken, key=lambda item: (item.task, item.doc_id)),
        limit=job.limit,
        reported=REPORTED if takes_canvases(model.answering.processor) else (),
    )
    samples = results.pop("samples")
    (out / SAMPLES).mkdir(exist_ok=True)
    for task, documents in samples.items():
        lines = (json.dumps(document, default=str, ensure_ascii=False) for document in documents)
        write_atomically(out / SAMPLES / f"{task}.jsonl", "".join(f"{line}\n" for line in lines))
    write_atomically(out / RESULTS, json.dumps(results, indent=1, default=str))
    write_report(report, out)
    return report


def require_lmms_eval() -> None:
    """Raises ImportError, with what to do, where lmms-eval is not installed."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise ImportError(
            f"the benchmarks run through lmms-eval {LMMS_EVAL}, which is not installed here: make an "
            "environment of its own (it wants av < 16) and `pip install '.[eval]'` there, in a clone; in a "
            "clone, `make test-eval` makes .venv-eval"
        )


def task_manager_of(benchmarks: Sequence[Benchmark]) -> Any:
    """A `TaskManager` that knows the tasks of these rows, from the files of the installed lmms-eval."""
    require_lmms_eval()
    import lmms_eval.tasks
    from loguru import logger

    logger.disable("lmms_eval.tasks")  # it names each file that is no task
    root = Path(lmms_eval.tasks.__file__).parent
    folders = dict.fromkeys(benchmark.folder_of_task or benchmark.task for benchmark in benchmarks)
    return lmms_eval.tasks.TaskManager(
        "ERROR",
        include_path=[str(root / folder) for folder in folders],
        include_defaults=False,
        model_name="onevision",
    )


def load_tasks(names: Sequence[str], manager: Any) -> list[Any]:
    """lmms-eval's task objects for its chat protocol, the first process before the others, so that data are
    prepared once.

    Args:
        names: of the tasks.
        manager: lmms-eval's `TaskManager`.

    Raises:
        ValueError: some cannot be loaded; each is named with what went wrong.
    """
    tasks: list[Any] = []
    failed: dict[str, str] = {}
    with Processes.current().main_first():
        for name in names:
            try:
                tasks.extend(_leaves(manager.load_task_or_group([name], "chat")))
            except (Exception, SystemExit) as error:  # task files end the process where something is missing
                failed[name] = _reason(error)
    if failed:
        listed = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(names)} tasks cannot be loaded: {listed}. `onevision eval prepare` says "
            "what must lie where"
        )
    return tasks


def check_modules(benchmarks: Sequence[Benchmark]) -> None:
    """Raises ImportError for modules that a task file imports and that are not there."""
    for benchmark in benchmarks:
        for module in benchmark.needs:
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"lmms-eval's file of {benchmark.task} imports {module}, which is not installed (it has "
                    f"wheels for x86-64 only): leave {benchmark.name} out, or run it on such a machine"
                )
    if any(benchmark.task == "ocrbench_v2" for benchmark in benchmarks):
        import nltk

        names = ("corpora/wordnet", "corpora/wordnet.zip")
        if not any((Path(folder) / name).exists() for folder in nltk.data.path for name in names):
            raise ImportError(
                "OCRBench v2 scores with METEOR, which needs nltk's WordNet, and it is not there: "
                "python -m nltk.downloader wordnet, or copy it into a folder that NLTK_DATA names"
            )


@contextlib.contextmanager
def data_from(root: Path | None) -> Iterator[None]:
    """Inside, lmms-eval finds tables and videos below `root`, and nltk what lies in `root/nltk_data`."""
    if root is None:
        from huggingface_hub.constants import HF_HOME

        os.environ.setdefault("HF_HOME", HF_HOME)
        yield
        return
    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder; `onevision eval prepare --root {root}` says what it must hold"
        )
    import nltk

    root = root.resolve()
    before = Path.cwd()
    places = mock.patch.object(nltk.data, "path", [str(root / "nltk_data"), *nltk.data.path])
    with mock.patch.dict(os.environ, {"HF_HOME": str(root)}), places:
        os.chdir(root)
        try:
            yield
        finally:
            os.chdir(before)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Where the Hub is off, nltk is too: NExT-QA's file downloads three packages each time it is read."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "TRUE", "YES", "ON"):
        yield
        return
    with mock.patch("nltk.download", return_value=False):
        yield


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("lmms-eval", "onevision-hf", "transformers", "torch", "av")}


def _leaves(tasks: Mapping[Any, Any]) -> list[Any]:
    """The tasks of groups in groups."""
    found = []
    for task in tasks.values():
        found += _leaves(task) if isinstance(task, Mapping) else [task]
    return found


def _reason(error: BaseException) -> str:
    """The first cause: lmms-eval wraps what went wrong in the report of its five attempts."""
    attempt = getattr(error, "last_attempt", None)
    cause = attempt.exception() if attempt is not None else error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
