"""lmms-eval's own task files, loaded for the rows of the suite only.

Looking through all of lmms-eval's two thousand task files takes half of a short run; the table knows where
those of its rows lie.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .suite import LMMS_EVAL, Benchmark


def require_lmms_eval() -> None:
    """Raises ImportError, with what to do, where lmms-eval is not installed."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise ImportError(
            f"the benchmarks run through lmms-eval {LMMS_EVAL}, which is not installed here: make an "
            "environment of its own (it wants av < 16) and `pip install 'onevision-hf[eval]'` there; in a "
            "clone, `make test-eval` makes .venv-eval"
        )


def task_manager_of(benchmarks: Sequence[Benchmark]) -> Any:
    """A `TaskManager` that knows the tasks of these rows, from the files of the installed lmms-eval."""
    require_lmms_eval()
    import lmms_eval.tasks
    from loguru import logger

    logger.disable("lmms_eval.tasks")  # it tells of each file that is no task
    root = Path(lmms_eval.tasks.__file__).parent
    folders = dict.fromkeys(benchmark.folder_of_task or benchmark.task for benchmark in benchmarks)
    return lmms_eval.tasks.TaskManager(
        "ERROR",
        include_path=[str(root / folder) for folder in folders],
        include_defaults=False,
        model_name="onevision",
    )
