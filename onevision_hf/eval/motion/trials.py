"""Runs trials and keeps what they find, keyed by all settings.

mixed/<budget>-<seed>-<digest>.safetensors: the classifiers with which trials begin
trials/<mode>-<input>-<budget>-<seed>-<digest>.json: results
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...jobs.pool import as_done
from ...jobs.run_folder import canonical_json, digest_of, write_atomically
from .classifier import PatchClassifier
from .clips import in_subset
from .frozen import Encoder, encode_input
from .inputs import build, by_energy
from .interventions import INTERVENTIONS
from .pool import Pool
from .settings import MIXTURE, SUBSETS, TUBE, SuiteSettings, Trial
from .training import InputData, most_labels, predict, train


@dataclass(frozen=True)
class Job:
    """What all trials of a run have in common; travels to worker processes.

    Args:
        folder: of the results.
        pool: the clips.
        settings: of the run.
        encoder: whose tokens are probed; None where there is none.
        device: where classifiers are trained.
    """

    folder: Path
    pool: Pool
    settings: SuiteSettings
    encoder: Encoder | None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot be changed

    def key(self, trial: Trial) -> dict[str, Any]:
        model = None if trial.mode == "scratch" or self.encoder is None else self.encoder.digest
        return self.trial_settings(trial).key(trial, source=self.pool.source.identity, model=model)

    def trial_settings(self, trial: Trial) -> SuiteSettings:
        """Those of the run; for tokens of a frozen encoder with what its own processor says."""
        if trial.mode == "scratch" or self.encoder is None:
            return self.settings
        return self.encoder.fit(self.settings)

    def path(self, trial: Trial) -> Path:
        name = f"{trial.mode}-{trial.input}-{trial.budget:g}-{trial.seed}"
        return self.folder / "trials" / f"{name}-{digest_of(self.key(trial))[:12]}.json"

    def mixed_path(self, budget: float, seed: int) -> Path:
        key = self.settings.mixture_key(budget, seed) | {"source": self.pool.source.identity}
        return self.folder / "mixed" / f"{key['budget']:g}-{seed}-{digest_of(key)[:12]}.safetensors"

    def stored(self, trial: Trial) -> dict[str, Any] | None:
        """The result of a trial that ran with these very settings."""
        path = self.path(trial)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        if found["settings"] != json.loads(canonical_json(self.key(trial))):
            raise ValueError(
                f"{path} was made with other settings: remove it or choose another --work folder"
            )
        return found

    def results(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """Those of trials that have all run."""
        found = []
        for trial in trials:
            stored = self.stored(trial)
            assert stored is not None
            found.append(stored)
        return found


def run_trials(job: Job, missing: Sequence[Trial], workers: int, report: Callable[[str], None]) -> None:
    """Run trials, `workers` at a time, each as soon as the classifier is there with which it begins.

    Args:
        job: what all trials have in common.
        missing: trials that have not run.
        workers: processes.
        report: called with a line of progress.
    """
    for folder in ("trials", "mixed"):
        (job.folder / folder).mkdir(parents=True, exist_ok=True)
    begins = {c: job.mixed_path(c.budget, c.seed) for c in missing if c.mode == "scratch"}
    mixtures = {path: trial for trial, path in begins.items() if not path.exists()}
    tasks = [(trial, True) for trial in mixtures.values()] + [(trial, False) for trial in missing]

    def is_ready(task: tuple[Trial, bool]) -> bool:
        trial, mixes = task
        return mixes or trial not in begins or begins[trial].exists()

    mixed = ran = 0
    for task, found in as_done(partial(_work, job), tasks, workers, is_ready):
        trial, mixes = tasks[task]
        if mixes:
            mixed += 1
            report(f"{mixed} of {len(mixtures)} classifiers of a mixture of inputs, {found['seconds']:.0f} s")
            continue
        ran += 1
        mean = np.mean([a["all"] for a in found["accuracy"].values() if a["all"] is not None])
        report(
            f"{ran} of {len(missing)} trials: {trial.mode} {trial.input} {100 * trial.budget:.3g} % "
            f"seed {trial.seed}, {mean:.3f} over all families, {found['seconds']:.0f} s"
        )


def _work(job: Job, task: tuple[Trial, bool]) -> dict[str, Any]:
    """Train the classifier with which the trial of a task begins, or run the trial."""
    torch.set_num_threads(1)
    trial, mixes = task
    if mixes:
        return {"seconds": _mix(job, trial)}
    result = run_trial(job, trial)
    write_atomically(job.path(trial), canonical_json(result))
    return result


def _mix(job: Job, trial: Trial) -> float:
    """Train the classifier with which a trial begins; returns its seconds."""
    began = time.perf_counter()
    settings, families = job.settings, job.pool.source.families
    budget = settings.mixture_key(trial.budget, trial.seed)["budget"]
    torch.manual_seed(trial.seed)
    inputs = [
        build(job.pool, settings, Trial("scratch", name, budget, trial.seed), "train").to(job.device)
        for name in MIXTURE
    ]
    classifier = PatchClassifier(settings.classifier, len(families), most_labels(families)).to(job.device)
    train(classifier, inputs, families, settings.mixing, trial.seed, _end_with_parent)
    state = {name: value.cpu().contiguous() for name, value in classifier.state_dict().items()}
    write_atomically(job.mixed_path(trial.budget, trial.seed), save(state))
    return time.perf_counter() - began


def run_trial(job: Job, trial: Trial) -> dict[str, Any]:
    """Train a classifier on one input and test it on the test clips."""
    began, spent = time.perf_counter(), time.process_time()
    settings, families = job.trial_settings(trial), job.pool.source.families
    labels = most_labels(families)
    torch.manual_seed(trial.seed)
    data, held_out = (build(job.pool, settings, trial, split) for split in ("train", "test"))
    data, held_out = data.to(job.device), held_out.to(job.device)
    how, tube, tokens = settings.training, TUBE if trial.input == "dense" else 1, 0
    if trial.mode == "frozen":
        assert job.encoder is not None
        data, held_out = (encode_input(job.encoder, settings, d) for d in (data, held_out))
        how, tokens = settings.probing, data.patches.shape[-1]
    is_padded = trial.input == "codec_energy"
    classifier = PatchClassifier(settings.classifier, len(families), labels, tube, tokens, is_padded)
    if trial.mode == "scratch":
        classifier.begin_with(load_file(job.mixed_path(trial.budget, trial.seed)), tube)
    train(classifier.to(job.device), [data], families, how, trial.seed, _end_with_parent)
    camera = job.pool.read("test", "camera")
    accuracy = score(classifier, held_out, families, camera)
    result: dict[str, Any] = {
        "settings": job.key(trial),
        "accuracy": accuracy,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "cpu",
    }
    if trial.input == "codec_energy":
        counts = (held_out.positions[..., 0] >= 0).sum(1)
        result["patches"] = {
            "keep_energy": by_energy(job.pool, settings, trial.budget).budget.keep_energy,
            "mean": round(float(counts.float().mean()), 1),
            "least": int(counts.min()),
            "most": int(counts.max()),
        }
    if trial.mode == "scratch" and trial.input == "codec":
        result["interventions"] = {}
        for name, intervene in INTERVENTIONS.items():
            chance = np.random.default_rng(trial.seed)
            changed = intervene(held_out.to(torch.device("cpu")), job.pool, settings, chance)
            result["interventions"][name] = score(classifier, changed.to(job.device), families, camera)
    return result


def _end_with_parent(step: int, loss: Tensor) -> None:
    """A trial takes minutes: a worker does not go on with it when the run was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)


def score(
    classifier: nn.Module, data: InputData, families: dict[str, tuple[str, ...]], camera: np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    """For each family the accuracy in each of `SUBSETS`, None where no clip is labelled, and how many are.

    Args:
        classifier: takes (patches, positions) and gives logits (B, F, L).
        data: the n clips of the test split.
        families: name -> its answers.
        camera: (n,) what each clip's camera does.
    """
    logits = predict(classifier, data)
    found: dict[str, dict[str, float | int | None]] = {}
    for number, (name, answers) in enumerate(families.items()):
        target = data.labels[:, number].numpy()
        right = logits[:, number, : len(answers)].argmax(-1).numpy() == target
        labelled = target >= 0
        found[name] = {
            **{subset: _mean(right[labelled & in_subset(camera, subset)]) for subset in SUBSETS},
            "clips": int(labelled.sum()),
        }
    return found


def _mean(right: np.ndarray) -> float | None:
    return round(float(right.mean()), 5) if len(right) else None
