"""A probe from its config to its report: clips, encoder, perhaps a cache, one run of the trainer a seed.

    result = run_probe(load_probe_config("drawn", ["model=FOLDER", "data.train=drawn/direction"]))

out/
  plan.json                 what the folder is of; another probe is refused
  seed-N/                   a run of the trainer: checkpoints, log.jsonl, validation.jsonl (a line an epoch)
  seed-N/result.json        last and best epoch, interventions
  seed-N/model              `AutoModelForVideoClassification`, the head of the last epoch
  result.json, report.md, confusion.png
out.missing.jsonl           listed clips that are not there
"""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import PartialState

from ...jobs.processes import Processes
from ...jobs.run_folder import canonical_json, digest_of, json_lines, write_atomically
from ...training.config import TrainConfig
from ...training.loop import Trainer
from ...training.report import VALIDATION, RunReport, read_lines
from .clip_lists import ProbeClips, check_clips, open_clips
from .clip_transform import ClipTransform, InputSettings, shown_size
from .config import ProbeConfig
from .encoders import FrozenEncoder, input_settings, load_frozen
from .feature_cache import CachedTransform, FeatureCache
from .report import RESULT, write_report
from .task import ProbeData, ProbeTask
from .testing import BEST, ProbeTest, predict, too_many_broken

STAGE = "probe"
# Fields that the trainer has under the same names.
_OF_THE_TRAINER = (
    "optim", "dataloader_num_workers", "max_broken", "logging_steps", "save_steps", "device", "timeout",
)  # fmt: skip


class ProbeRun(Trainer):
    """The trainer over one seed: tests and saves after each epoch.

    Args:
        config: of the probe.
        seed: of the head and of the order of clips.
        encoder: that is probed.
        data: clips, or their tokens.
    """

    task: ProbeTask

    def __init__(self, config: ProbeConfig, seed: int, encoder: FrozenEncoder, data: ProbeData):
        self.probe = config
        clips, batch = len(data.train), config.batch_size
        # Epochs follow one another without a gap: a batch may end one and begin the next.
        self.ends = [-(-clips * epoch // batch) for epoch in range(1, config.epochs + 1)]
        own = {name: getattr(config, name) for name in _OF_THE_TRAINER}
        training = TrainConfig(
            "probe",
            str(seed_folder(config, seed)),
            seed,
            self.ends[-1],
            save_total_limit=1,
            report_to=[],
            **own,
        )
        training.check()
        super().__init__(training, task=ProbeTask(config, seed, encoder, data))
        encoder.to(self.device)
        self.test = ProbeTest(config, self.task, self.ends, self.out, self.device)

    def validation(self) -> ProbeTest:
        return self.test

    def saves(self) -> bool:
        return super().saves() or self.step in self.ends

    def finish(self, report: RunReport) -> None:
        """Interventions on the heads of the last and of the best epoch, the model, and what came of it."""
        lines = read_lines(self.out / VALIDATION)
        best = max(lines, key=lambda line: (line["accuracy"], -line["epoch"]))
        changed = {name: self._intervened(name) for name in self.probe.intervene}
        if self.rank == 0:
            result = {
                "seed": self.config.seed, "last": lines[-1], "best": best, "epochs": lines,
                "interventions": changed, "processes": self.size, "broken_test": self.test.broken,
                "trained_clips": self.samples, "broken_train": self.broken,
            }  # fmt: skip
            partial, target = self.out / ".model.partial", self.out / "model"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            self.task.export(partial, {})
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
            write_atomically(self.out / RESULT, canonical_json(result))
        if self.size > 1:
            dist.barrier()

    def _intervened(self, name: str) -> dict[str, dict[str, float]]:
        """Figures of both heads on changed test clips."""
        data, head = self.task.data, self.task.model.head
        transform = ClipTransform(data.settings, intervene=name, rows=data.test_clips)
        last = {key: value.clone() for key, value in head.state_dict().items()}
        found = {"last": self._figures(transform)}
        self.task.load_head(self.out / BEST)
        found["best"] = self._figures(transform)
        head.load_state_dict(last)
        return found

    def _figures(self, transform: ClipTransform) -> dict[str, float]:
        found = predict(self.task, self.task.data.test_clips, transform, self.probe, self.device)
        return found.figures


def run_probe(config: ProbeConfig) -> tuple[int, dict[str, Any]]:
    """Run every seed that is not finished and write the report. Gives the status for the shell (128 + the
    signal that stopped it) and what `result.json` holds.

    Raises:
        ConfigError, FileNotFoundError: lists, budget, cache or folder do not fit. TrainingError: too many
        clips are broken.
    """
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(seconds=config.timeout))
    processes, out = Processes.current(), Path(config.out)
    clips = open_clips(config.data)
    missing_file = out.with_name(f"{out.name}.missing.jsonl")
    if processes.main and clips.missing:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(missing_file, json_lines(clips.missing))
    check_clips(clips, config.data, missing_file)
    encoder = load_frozen(config.model, state.device)
    settings = clip_settings(config, encoder)
    plan = {"encoder": encoder.identity, "transform": settings.identity(), **config.plan()}
    sources = digest_of([clips.train.digest(), clips.test.digest(), *clips.names])
    with processes.open_run(out, stage=STAGE, settings=plan, sources=sources):
        data, broken = _data(config, settings, clips, encoder, processes)
        for seed in config.seeds:
            if _finished(config, seed):
                continue
            status = ProbeRun(config, seed, encoder, data).fit()
            if status:
                return status, {}
        if processes.main:
            write_report(config, settings, clips, broken)
        processes.barrier()
        return 0, json.loads((out / RESULT).read_text())


def seed_folder(config: ProbeConfig, seed: int) -> Path:
    return Path(config.out) / f"seed-{seed}"


def clip_settings(config: ProbeConfig, encoder: FrozenEncoder) -> InputSettings:
    """How clips are shown to this encoder. Raises ConfigError for what it does not take."""
    wanted = config.input
    size = wanted.size or None
    if wanted.max_size and encoder.any_size and not (size or "size" in wanted.processor):
        size = min(wanted.max_size, shown_size(encoder.patchify))
    return input_settings(encoder, wanted.kind, wanted.overrides(), size)


def _data(
    config: ProbeConfig,
    settings: InputSettings,
    clips: ProbeClips,
    encoder: FrozenEncoder,
    processes: Processes,
) -> tuple[ProbeData, list[dict[str, str]]]:
    """What is trained and tested on: clips, or their cached tokens and the clips that gave none."""
    if not config.cache:
        train_transform = ClipTransform(settings, augment=config.augments)
        return ProbeData(
            clips, clips.train, clips.test, train_transform, ClipTransform(settings), settings
        ), []
    transform = ClipTransform(settings)
    with FeatureCache(config.cache, {"encoder": encoder.identity, **settings.identity()}, processes) as cache:
        train, broken_train = cache.fill(clips.train, transform, encoder, "features (train)")
        test, broken_test = cache.fill(clips.test, transform, encoder, "features (test)")
    broken = [*broken_train, *broken_test]
    total = len(clips.train) + len(clips.test)
    if len(broken) > config.max_broken * total or not (len(train) and len(test)):
        raise too_many_broken(f"{total} clips", broken, config)
    return ProbeData(clips, train, test, CachedTransform(), CachedTransform(), settings), broken


def _finished(config: ProbeConfig, seed: int) -> bool:
    """Whether a seed has all that the config wants."""
    path = seed_folder(config, seed) / RESULT
    if not path.exists():
        return False
    return set(config.intervene) <= json.loads(path.read_text())["interventions"].keys()
