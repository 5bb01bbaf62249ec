"""The steps: fetch, forward, backward, clip, update, and once in a while look, save, validate.

    Trainer(load_config("cluster_smoke")).fit()

The state of a run is its step. Everything random is keyed by it, learning rates follow from it, and the
loader starts anywhere; so a checkpoint holds tensors and a number. The host waits for the device once a
micro-batch, where a task learns its sizes for all heads together (`Task.prepare`); what it wants to know of a
step it reads while the next one runs.
"""

import math
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from ..jobs.run_folder import open_locked
from ..modeling.patch_inputs import trusted_values
from ..objectives.cluster_sampling import derive_key
from . import checkpoint
from .config import TrainConfig
from .export import MODEL, Counts, export
from .loader import Batch, open_loader
from .mixture import RankSlice
from .optimisation import Average, Optimizers, distribute, learning_rate_factor
from .report import RunReport, available_trackers
from .sampler import DROPOUT
from .schema import changes, differences
from .tasks.task import Task, make_task
from .validation import Validation, Validator
from .workers import DataError

_CHECK_BROKEN_FROM = 100  # samples


class TrainingError(RuntimeError):
    """A run that cannot go on: a loss that is not finite, too many broken samples."""


class Trainer:
    """One run, new or resumed from `out`/checkpoints.

    Args:
        config: of the run.
        datasets: by component, in place of the config's sources: a dataset, or a `Transformed` one.
        max_steps: stop (and save) there, although the schedules go on to the config's end.
        task: what is learned, instead of the task that the config names.
        checkpoints: whether any are written.

    Attributes: `task`, `config`, `step` (optimizer steps done), `total` (planned), `rank`, `size`.
    """

    def __init__(
        self,
        config: TrainConfig,
        datasets: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
        task: Task | None = None,
        checkpoints: bool = True,
    ):
        self.config, self.optim = config, config.optim
        self.out, self.checkpoints = Path(config.out), checkpoints
        self.task: Task = make_task(config, datasets) if task is None else task
        limit = InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout))
        self.accelerator = Accelerator(
            cpu=config.device == "cpu",
            kwargs_handlers=[limit],
            log_with=available_trackers(config.report_to) or None,
        )
        self.device = self.accelerator.device
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.size:  # they would write one folder, each as if it were alone
            raise TrainingError(
                f"{started} processes were started and accelerate sees {self.size}: on a machine without an "
                "accelerator pass device=cpu"
            )
        self.task.build()
        self.task.model.to(self.device)
        for module in self.task.sharded.values():
            module.to(self.device)
        self.model = distribute(self.task.model, self.optim, self.device)
        self.optimizers = Optimizers(self.task.model, self.task.sharded, self.optim, self.task.lr_scales)
        self.average = Average(self.task.model, self.optim.ema) if self.optim.ema else None
        self.step, self.samples, self.broken = 0, 0, 0
        self.changes: list[str] = []  # of settings, from one start to the next
        self._now_changed: list[str] = []
        self.samples_per_step = sum(component.batch_size for component in self.task.mixture)
        self.total = config.total_steps(self.samples_per_step)
        self.stop_at = min(self.total, max_steps or self.total)
        self.signal: int | None = None
        self._checked = False

    def fit(self) -> int:
        """Train to the end. Gives the status for the shell: 0, or 128 + the signal that stopped it.

        Raises TrainingError when the run cannot go on, because another of its processes has ended too;
        DataError when its data cannot be read, OSError when a checkpoint cannot be written.
        """
        try:
            return self._fit()
        except RuntimeError as error:
            if self.size > 1 and _is_lost_process(error):
                raise TrainingError(
                    f"after step {self.step}: another process of this training has ended, and says why"
                ) from error
            raise

    def _fit(self) -> int:
        report = RunReport(self.config, self.accelerator, self.total, self.samples_per_step)
        validation = self.validation()
        with self._signals(), self._alone(), report:
            resumed = self.resume()
            streamed = [component.name for component in self.task.mixture if component.sampler is None]
            report.start(self.step, resumed, streamed, self._now_changed)
            self.changes += [f"from step {self.step} on: {change}" for change in self._now_changed]
            if validation.due(self.step, self.total):
                validation.report(report, self.step)
            saved = self.step if resumed else -1
            with closing(self._steps(report)) as steps:
                for stop in steps:
                    if stop or self.saves():
                        self.save()
                        saved = self.step
                    if validation.due(self.step, self.total):
                        validation.report(report, self.step)
                    if stop:
                        name = signal.Signals(stop).name
                        report.show(
                            f"stopped by {name} after step {self.step}, saved; the same command goes on"
                        )
                        return 128 + stop
            if saved != self.step:
                self.save()
            if self.step == self.total:
                self.finish(report)
        return 0

    def validation(self) -> Validator:
        return Validation(self.config, self.task, self.device)

    def saves(self) -> bool:
        """Whether a checkpoint is due after this step."""
        return self.step % self.config.save_steps == 0 or self.step == self.stop_at

    def export_step(self, step: int) -> Path:
        """Write `out`/model-step-NNNNNNNN out of the checkpoint of a step; every process calls this.

        Raises CheckpointError when there is none, or it is damaged or of another run.
        """
        found = checkpoint.checkpoint_of(self.out / "checkpoints", step)
        self._load(found)
        return self._export(f"{MODEL}-{found.name}")

    def _export(self, name: str) -> Path:
        weights = self.average.weights if self.average else dict(self.task.model.named_parameters())
        counts = Counts(self.step, self.samples, self.broken, tuple(self.changes))
        return export(self.config, self.task, weights, counts, name)

    def finish(self, report: RunReport) -> None:
        """Every process calls this after the last step."""
        target = self._export(MODEL)
        report.show(f"trained: {target} loads with {self.task.auto_class}.from_pretrained")

    def _steps(self, report: RunReport) -> Generator[int, None, None]:
        """Yield after every optimizer step: 0, or the signal after which all processes stop here."""
        parts = self.optim.gradient_accumulation_steps
        loader = open_loader(
            self.task.mixture,
            RankSlice(self.config.seed, parts, self.rank, self.size),
            self.step * parts,
            self.stop_at * parts,
            workers=self.config.dataloader_num_workers,
            pin=self.device.type == "cuda",
        )
        with closing(iter(loader)) as batches:
            try:
                yield from self._steps_on(batches, report)
            except DataError as error:
                report.lost(error.held)
                raise

    def _steps_on(self, batches: Iterator[Batch], report: RunReport) -> Iterator[int]:
        parts = self.optim.gradient_accumulation_steps
        pending: tuple[int, Tensor, list[Batch]] | None = None
        while self.step < self.stop_at:
            read: list[Batch] = []
            sums: dict[str, Tensor] = {}
            for part in range(parts):
                with report.waiting():
                    batch = next(batches)
                read.append(batch)
                losses = self._accumulate(batch, self.step * parts + part, last=part == parts - 1)
                sums = {name: sums[name] + loss if part else loss for name, loss in losses.items()}
            logs = self.step + 1 == self.stop_at or (self.step + 1) % self.config.logging_steps == 0
            metrics = self.task.metrics() if logs else {}
            norm = self.optimizers.clip()
            factor = learning_rate_factor(self.optim, self.step, self.total)
            self.optimizers.step(factor)
            self.optimizers.zero_grad()
            if self.average is not None:
                self.average.update()
            self.step += 1
            state = self._state(sums, norm, read)
            # A step's state is read when the next one is under way; before something is written, at once.
            stop = self._read_back(pending, report)[0] if pending else 0
            pending = (self.step, state, read)
            if logs or stop or self.saves():
                also, norm_value, values = self._read_back(pending, report)
                stop, pending = also or stop, None
                if logs:
                    named = dict(zip(sums, values, strict=True))
                    total = sum(self.task.weights[name] * value for name, value in named.items())
                    figures = {
                        "loss": total,
                        "grad_norm": norm_value,
                        "lr": factor * self.optim.learning_rate,
                    }
                    figures |= {f"{name}/loss": value for name, value in named.items()}
                    report.log(self.step, figures | {name: float(value) for name, value in metrics.items()})
            yield stop
            if stop:
                return

    def _accumulate(self, batch: Batch, key: int, last: bool) -> dict[str, Tensor]:
        """Add one micro-batch's gradients; gives its part of the step's losses."""
        inputs = batch.inputs if self.device.type == "cpu" else batch.to(self.device).inputs
        torch.manual_seed(derive_key(DROPOUT, self.config.seed, key, self.rank) % 2**63)
        prepared = self.task.prepare(inputs, key)
        with self._unsynced(not last):
            low = self.optim.precision == "bfloat16"
            # The model reads and checks the first micro-batch; what comes after is made the same way.
            trust = trusted_values() if self._checked else nullcontext()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low), trust:
                outputs = self.model(inputs)
            self._checked = True
            losses = self.task.losses(outputs, prepared)
            parts = self.optim.gradient_accumulation_steps
            weighted = [self.task.weights[name] * loss for name, loss in losses.items()]
            (sum(weighted[1:], start=weighted[0]) / parts).backward()
        return {name: loss.detach() / parts for name, loss in losses.items()}

    @contextmanager
    def _unsynced(self, wanted: bool) -> Iterator[None]:
        """Keep the gradients of all micro-batches but the last on their processes."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(not wanted)
            yield
        elif wanted and isinstance(self.model, DistributedDataParallel):
            with self.model.no_sync():
                yield
        else:
            yield

    def _state(self, losses: Mapping[str, Tensor], norm: Tensor, read: list[Batch]) -> Tensor:
        """[SIGINTs, SIGTERMs, samples, broken, norm, losses...] over all processes, the same on each."""
        counts = [int(self.signal == number) for number in (signal.SIGINT, signal.SIGTERM)]
        counts += [sum(batch.samples for batch in read), sum(len(batch.broken) for batch in read)]
        over_all = torch.tensor(counts, dtype=torch.float32).to(self.device, non_blocking=True)
        if self.size > 1:
            dist.all_reduce(over_all)
        return torch.cat([over_all, norm.reshape(1), *(loss.float().reshape(1) for loss in losses.values())])

    def _read_back(
        self, pending: tuple[int, Tensor, list[Batch]], report: RunReport
    ) -> tuple[int, float, list[float]]:
        """Read the state of a step: count, and stop what must not go on. Gives (signal, norm, losses)."""
        step, state, read = pending
        report.broken(record for batch in read for record in batch.broken)
        interrupts, terms, samples, broken, norm, *losses = state.tolist()
        self.samples, self.broken = self.samples + int(samples), self.broken + int(broken)
        if not all(map(math.isfinite, [norm, *losses])):
            where = report.write_batch(step, read)
            raise TrainingError(
                f"step {step}: losses {losses}, gradient norm {norm}: not finite. Nothing was saved after "
                f"the last checkpoint; the batch is in {where}"
            )
        seen = self.samples + self.broken
        if self.broken > self.config.max_broken * seen and seen >= _CHECK_BROKEN_FROM:
            raise TrainingError(
                f"{self.broken} of {seen} samples are broken, more than max_broken = "
                f"{self.config.max_broken:g}; they are listed in {self.out / 'broken-*.jsonl'}"
            )
        stop = signal.SIGTERM if terms else signal.SIGINT if interrupts else 0
        return int(stop), norm, losses

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Remember the first SIGTERM or SIGINT; the second one does what it always does.

        Python gives signals to the main thread alone. In another one, as in Ray Train's workers, they are
        left to whoever started it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: Any) -> None:
            self.signal = number
            signal.signal(number, before[number])

        before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            for number in before:
                signal.signal(number, remember)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The run's folder, for this training alone. Raises TrainingError when another one writes it."""
        if not self.checkpoints or self.rank:
            yield
            return
        self.out.mkdir(parents=True, exist_ok=True)
        busy = f"{self.out} is written by another training: wait for it, stop it, or choose another `out`"
        try:
            lock = open_locked(self.out / ".lock", "wb", busy)
        except ValueError as error:
            raise TrainingError(str(error)) from None
        with lock:
            yield

    # -- what survives --

    def tensors(self) -> dict[str, Tensor]:
        return checkpoint.gather_tensors(self.task.model, self.task.sharded, self.optimizers, self.average)

    def save(self) -> Path | None:
        """Write a checkpoint, unless none are wanted; every process calls this."""
        if not self.checkpoints:
            return None
        state = {
            "step": self.step, "samples": self.samples, "broken": self.broken, "processes": self.size,
            "config": self.config.to_dict(), "changes": self.changes,
        }  # fmt: skip
        limit = self.config.save_total_limit
        return checkpoint.save(self.out / "checkpoints", self.step, self.tensors(), state, limit)

    def resume(self) -> bool:
        """Go on from the latest checkpoint of the run's folder, if there is one.

        Raises CheckpointError when it is damaged or of another run.
        """
        found = checkpoint.latest_checkpoint(self.out / "checkpoints")
        if found is None:
            return False
        self._load(found)
        return True

    def _load(self, found: Path) -> None:
        state = checkpoint.load(found, self.tensors())
        # A run of an earlier version has its config under the names of that time.
        fixed = differences(type(self.config), state["config"], self.config.to_dict())
        if fixed:
            raise checkpoint.CheckpointError(
                f"{self.out} is a run with {'; '.join(fixed)}: its data and random numbers would not go on "
                "as they were; use the same values, or another `out`"
            )
        self.step, self.samples, self.broken = state["step"], state["samples"], state["broken"]
        self.changes = list(state.get("changes", ()))
        self._now_changed = changes(state["config"], self.config.to_dict())


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective failed for want of a process; gloo's errors have no type of their own."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def close() -> None:
    """Leave the process group; gloo aborts now and then when one leaves while another still talks."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
