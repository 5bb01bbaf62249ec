"""The whole suite: pool the clips, run the trials that are missing, put the results together.

    from onevision_hf.eval.motion import PROFILES, run_suite
    document = run_suite(PROFILES["small"], "runs/motion")

The folder holds clips/ (pooled), mixed/ (classifiers to begin with) and trials/ (a JSON each). It can be gone
on with after a kill, and serves the small and the full profile.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...jobs.devices import pick_device
from ...jobs.pool import num_cores
from ...jobs.run_folder import RunFolder
from ...modeling.patchify_config import PatchifyConfig
from ...synthetic.encoding import EncodingSettings
from .clips import Drawn, in_subset
from .folder import Labelled
from .frozen import Encoder
from .grounds import Grounds
from .inputs import codec_config
from .pool import Pool, energy_name
from .settings import CEILING_FRAMES, CODEC_INPUTS, MIXTURE, SUBSETS, SuiteSettings, Trial
from .shots import Joined
from .summary import summarise
from .trials import Job, run_trials


def run_suite(
    settings: SuiteSettings,
    work: str | Path,
    *,
    model: str | None = None,
    clips: str | Path | None = None,
    codec: str = "h264",
    grounds: str | Path | None = None,
    shots: bool = False,
    workers: int | None = None,
    device: str | None = None,
    redo: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run what is missing of a suite and return its document (see `summarise`).

    Args:
        settings: how many clips, which inputs, budgets, seeds.
        work: the folder of pooled clips and results.
        model: a folder or Hub name of a OneVision encoder, whose tokens are probed; None leaves it out.
        clips: a folder of labelled folders instead of drawn clips; its clips are all used.
        codec: of drawn clips, a name of `synthetic.CODECS`.
        grounds: a folder of videos or pictures, the grounds of drawn clips; no file serves both splits.
        shots: of clips of several scenes, cut one after the other, instead.
        workers: processes, each with one thread; None is one a core.
        device: where classifiers are trained: "cpu", "cuda"; None is a GPU where there is one.
        redo: empty a folder that holds other clips, instead of refusing it; finished trials stay.
        report: called with a line of progress.

    Raises:
        ValueError: the folder holds other clips; too many clips cannot be read; a label without clips; a
            codec, grounds or shots for clips that are not drawn; fewer than two grounds.
        VideoReadError: a ground cannot be read.
    """
    work = Path(work)
    place = pick_device(device)
    encoder = None if model is None else Encoder.open(model)
    source: Drawn | Joined | Labelled
    if shots and clips is None and grounds is None:
        source = Joined(settings.clips, EncodingSettings(codec))
    elif shots:
        raise ValueError("--shots draws its own clips: leave --clips and --grounds out")
    elif clips is None:
        opened = None if grounds is None else Grounds.open(Path(grounds), settings.clips.seed)
        source = Drawn(settings.clips, EncodingSettings(codec), opened)
    elif grounds is None and codec == "h264":
        source = Labelled.open(Path(clips))
    else:
        raise ValueError("--codec and --grounds are for drawn clips, and --clips brings others")
    counts = {"train": settings.train, "test": settings.test}
    if isinstance(source, Labelled):
        counts = source.counts
    elif unknown := {settings.frames(budget) for budget in settings.budgets} - {*CEILING_FRAMES}:
        raise ValueError(
            f"a budget of {min(unknown)} whole frames has no ceiling; ceilings are known for "
            f"{', '.join(map(str, CEILING_FRAMES))} frames"
        )
    began = time.perf_counter()
    plan = {"clips": asdict(settings.clips), "source": source.identity}
    with RunFolder(work / "clips", stage="motion clips", settings=plan, sources="", redo=redo) as run:
        pool = Pool(run.path, settings.clips, source, counts)
        job = Job(work, pool, settings, encoder, place)
        trials = settings.trials(encoder is not None)
        missing = [trial for trial in trials if job.stored(trial) is None]
        pool.fill(_codec_configs(job, missing), workers or num_cores(), report)
        pool.check_labels()
        run_trials(job, missing, workers or num_cores(), report)
        ceilings = ceiling_table(pool, settings)
        return summarise(settings, source.families, job.results(trials), ceilings) | {
            "clips": pool.counts | {"rejected": pool.rejected()},
            "model": None if encoder is None else encoder.title,
            "seconds": round(time.perf_counter() - began, 1),
        }


def _codec_configs(job: Job, missing: Sequence[Trial]) -> list[PatchifyConfig]:
    """Under which settings energies are needed for the trials that have not run."""
    wanted = [(trial.input, job.trial_settings(trial)) for trial in missing]
    wanted += [(name, job.settings) for name in MIXTURE if any(t.mode == "scratch" for t in missing)]
    configs = [codec_config(own, name) for name, own in wanted if name in (*CODEC_INPUTS, "positions")]
    return list({energy_name(config): config for config in configs}.values())


def ceiling_table(pool: Pool, settings: SuiteSettings) -> dict[str, dict[str, dict[str, float | None]]]:
    """By budget and family: what an observer of the uniform frames could score, in each of `SUBSETS`."""
    known, camera = pool.read("test", "ceilings"), pool.read("test", "camera")
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for budget in settings.budgets:
        frames = settings.frames(budget)
        place = CEILING_FRAMES.index(frames) if frames in CEILING_FRAMES else 0
        table[f"{budget:g}"] = {
            name: {subset: _mean(known[in_subset(camera, subset), number, place]) for subset in SUBSETS}
            for number, name in enumerate(pool.source.families)
        }
    return table


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return round(float(values.mean()), 5) if len(values) else None
