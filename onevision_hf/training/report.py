"""What a person sees of a run: a progress line, `log.jsonl`, trackers, and the lists of what went wrong.

log.jsonl             a line every `logging_steps` steps: step, loss, and every other figure
validation.jsonl      a line a validation: step, accuracy
broken-RANK.jsonl     examples that could not be read, and why
lost-RANK.jsonl       the samples that a data worker held when it was killed
bad-batch-RANK.pt     the batch of a step whose loss was not finite (torch.load)
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from ..jobs.run_folder import write_atomically
from .config import TrainConfig
from .loader import Batch
from .schema import ConfigError, flat

LOG, VALIDATION = "log.jsonl", "validation.jsonl"


class RunReport:
    """Written by the first process, except for what each process alone knows.

    Args:
        config: of the run.
        accelerator: whose trackers and processes these are.
        total: optimizer steps of the run.
        samples_per_step: over all processes.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, total: int, samples_per_step: int):
        self.config, self.out, self.total = config, Path(config.out), total
        self.samples_per_step = samples_per_step
        self.rank, self.main = accelerator.process_index, accelerator.is_main_process
        self.accelerator = accelerator
        self._waited = 0.0
        self._tracking = False

    def __enter__(self) -> "RunReport":
        self.out.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._tracking:
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def start(self, step: int, resumed: bool, inexact: list[str], changes: list[str] | None = None) -> None:
        """Begin, or go on.

        Args:
            step: that is done.
            resumed: whether from a checkpoint.
            inexact: components that are streamed.
            changes: what the config says in another way than before.
        """
        if self.main:
            # What was logged after the checkpoint happens again, and so does the validation of its own step,
            # which may have been cut off.
            _truncate(self.out / LOG, step)
            _truncate(self.out / VALIDATION, step - 1)
            (self.out / "config.json").write_text(json.dumps(self.config.to_dict(), indent=1) + "\n")
        if resumed:
            self.show(f"resumed from step {step} of {self.total}")
        for change in changes or ():
            self.show(f"from step {step} on: {change}")
        if inexact:
            self.show(
                f"{', '.join(inexact)}: streamed without random access, so a resume starts the stream anew: "
                "examples may be seen twice or not at all, and runs are not reproducible"
            )
        if self.config.report_to:
            figures = {
                key: value if isinstance(value, bool | str | float | int) else str(value)
                for key, value in flat(self.config.to_dict()).items()
            }
            self.accelerator.init_trackers(self.out.name, config=figures)
            self._tracking = True
        self._since, self._from, self._waited = time.perf_counter(), step, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time that the training waited for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of a step, with the speed since the line before."""
        now = time.perf_counter()
        seconds, steps = now - self._since, step - self._from
        speed = {
            "samples_per_second": steps * self.samples_per_step / seconds if steps else 0.0,
            "data_wait": self._waited / seconds,
            "seconds_per_step": seconds / max(1, steps),
        }
        self._since, self._from, self._waited = now, step, 0.0
        if not self.main:
            return
        line = {"step": step, **figures, **speed}
        _append(self.out / LOG, [line])
        left = (self.total - step) * speed["seconds_per_step"]
        self._show(
            f"step {step}/{self.total}  loss {figures['loss']:.4f}  lr {figures['lr']:.2e}  "
            f"{speed['samples_per_second']:.1f} samples/s  data {speed['data_wait']:.0%}  "
            f"left {timedelta(seconds=int(left))}",
            final=step == self.total,
        )
        if self._tracking:
            self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step)

    def validated(
        self,
        step: int,
        accuracy: float,
        message: str = "nearest neighbours of held-out samples agree in",
        **more: float,
    ) -> None:
        """Write and show an accuracy.

        Args:
            step: that it follows.
            accuracy: a share.
            message: shown before it.
            more: figures of the same line of the file.
        """
        # Its time is not the training's.
        self._since, self._from, self._waited = time.perf_counter(), step, 0.0
        if self.main:
            _append(self.out / VALIDATION, [{"step": step, "accuracy": accuracy, **more}])
            self.show(f"step {step}: {message} {accuracy:.1%}")
            if self._tracking:
                self.accelerator.log({"validation/accuracy": accuracy}, step=step)

    def broken(self, records: Iterable[Mapping[str, Any]]) -> None:
        _append(self.out / f"broken-{self.rank}.jsonl", records)

    def lost(self, held: Mapping[str, Iterable[str]]) -> None:
        """What a killed data worker held: component -> keys."""
        records = [{"component": name, "key": key} for name, keys in held.items() for key in keys]
        _append(self.out / f"lost-{self.rank}.jsonl", records)

    def write_batch(self, step: int, read: list[Batch]) -> Path:
        path = self.out / f"bad-batch-{self.rank}.pt"
        parts = [{"inputs": batch.inputs, "keys": batch.keys} for batch in read]
        torch.save({"step": step, "micro_batches": parts}, path)
        return path

    def show(self, text: str) -> None:
        if self.main:
            self._show(text, final=True)

    def _show(self, text: str, final: bool = False) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="\n" if final else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def available_trackers(names: list[str]) -> list[str]:
    """`names`, all of which accelerate can start.

    Raises ConfigError for one that is missing, where accelerate would go on without it.
    """
    installed = [tracker.value for tracker in get_available_trackers()]
    for name in names:
        if name not in installed:
            raise ConfigError(
                f"report_to names {name!r}, which is not installed (there is "
                f"{', '.join(installed) or 'none'}): pip install {name}, or report_to=[]"
            )
    return names


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a last one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def summary(out: str) -> dict[str, Any]:
    """What a run has come to: its folder, the last step and loss that were logged, the last accuracy."""
    log, validation = (read_lines(Path(out) / name) for name in (LOG, VALIDATION))
    return {
        "out": out,
        "step": log[-1]["step"] if log else 0,
        "loss": log[-1]["loss"] if log else None,
        "accuracy": validation[-1]["accuracy"] if validation else None,
    }


def _truncate(path: Path, step: int) -> None:
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if path.exists():
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    if text := "".join(json.dumps(line) + "\n" for line in lines):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
