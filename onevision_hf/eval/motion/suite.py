"""The whole suite: pool the clips, run the cells that are missing, put the results together.

    from onevision_hf.eval.motion import PROFILES, run_suite
    document = run_suite(PROFILES["small"], "runs/motion")

The folder holds clips/ (pooled), mixed/ (readers to begin with) and cells/ (a JSON a cell). It can be gone on
with after a kill; small and full profiles share it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...jobs.devices import pick_device
from ...jobs.run_folder import RunFolder
from .cells import Job, run_cells
from .clips import Drawn, in_view
from .folder import Labelled
from .frozen import Encoder
from .pool import Pool
from .settings import CEILING_FRAMES, MIXTURE, PRESETS, VIEWS, SuiteSettings
from .summary import summarise


def run_suite(
    settings: SuiteSettings,
    work: str | Path,
    *,
    model: str | None = None,
    clips: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    redo: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run what is missing of a suite and return its document (see `summarise`).

    Args:
        settings: how many clips, which inputs, budgets, seeds.
        work: the folder of pooled clips and results.
        model: a folder or Hub name of a OneVision encoder for the second way of reading; None leaves it out.
        clips: a folder of labelled folders instead of drawn clips; its clips are all used.
        workers: processes, each with one thread; None is one a core.
        device: where readers are trained: "cpu", "cuda"; None is a GPU where there is one.
        redo: empty a folder that holds other clips, instead of refusing it; finished cells stay.
        say: called with a line of progress.

    Raises:
        ValueError: the folder holds other clips; too many clips cannot be read; a label without clips.
    """
    work = Path(work)
    place = pick_device(device)
    encoder = None if model is None else Encoder.open(model)
    source: Drawn | Labelled = Drawn(settings.clips) if clips is None else Labelled.open(Path(clips))
    counts = {"train": settings.train, "test": settings.test}
    if isinstance(source, Labelled):
        counts = source.counts
    elif unknown := {settings.frames(budget) for budget in settings.budgets} - {*CEILING_FRAMES}:
        raise ValueError(
            f"a budget of {min(unknown)} whole frames has no ceiling; ceilings are known for "
            f"{', '.join(map(str, CEILING_FRAMES))} frames"
        )
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    began = time.perf_counter()
    plan = {"clips": asdict(settings.clips), "source": source.identity}
    with RunFolder(work / "clips", stage="motion clips", settings=plan, sources="", redo=redo) as run:
        pool = Pool(run.path, settings.clips, source, counts)
        job = Job(work, pool, settings, encoder, place)
        cells = settings.cells(encoder is not None)
        missing = [cell for cell in cells if job.stored(cell) is None]
        wanted = {cell.input for cell in missing} | set(MIXTURE if missing else ())
        pool.fill([name for name in PRESETS if name in wanted], workers, say)
        pool.check_labels()
        run_cells(job, missing, workers, say)
        ceilings = ceiling_table(pool, settings)
        return summarise(settings, source.families, job.results(cells), ceilings) | {
            "clips": pool.counts | {"rejected": pool.rejected()},
            "model": None if encoder is None else encoder.title,
            "seconds": round(time.perf_counter() - began, 1),
        }


def ceiling_table(pool: Pool, settings: SuiteSettings) -> dict[str, dict[str, dict[str, float | None]]]:
    """By budget and family: what an observer of the uniform frames could score, in each of `VIEWS`."""
    known, camera = pool.read("test", "ceilings"), pool.read("test", "camera")
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for budget in settings.budgets:
        frames = settings.frames(budget)
        place = CEILING_FRAMES.index(frames) if frames in CEILING_FRAMES else 0
        table[f"{budget:g}"] = {
            name: {view: _mean(known[in_view(camera, view), row, place]) for view in VIEWS}
            for row, name in enumerate(pool.source.families)
        }
    return table


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return round(float(values.mean()), 5) if len(values) else None
