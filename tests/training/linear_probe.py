"""A fifth task: a linear layer over a picture's mean colour learns its class, with a loss of its own."""

from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from onevision_hf.data.labelled import open_examples
from onevision_hf.data.media import open_picture
from onevision_hf.objectives.collectives import mean_over_processes
from onevision_hf.training.config import TrainConfig
from onevision_hf.training.dry_run.planned import LayerGroup, Planned
from onevision_hf.training.mixture import MixtureComponent
from onevision_hf.training.sampler import Sampler
from onevision_hf.training.schema import fixed, require
from onevision_hf.training.tasks.task import Task


@dataclass
class Section:
    source: str = ""
    batch_size: int = fixed(0)


@dataclass
class LinearProbeConfig(TrainConfig):
    probe: Section = field(default_factory=Section)

    def check(self):
        super().check()
        require(self.probe.batch_size >= 1, "probe.batch_size", self.probe.batch_size, "at least 1")


class Probe(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs["pictures"]["colour"])


def mean_colour(example, rng, position):
    pixels = np.asarray(open_picture(example.media).convert("RGB"), np.float32)
    return {"colour": pixels.mean((0, 1)) / 255, "labels": np.asarray(example.labels[:1], np.int64)}


class LinearProbe(Task):
    def __init__(self, config, datasets):
        dataset = datasets.get("pictures") or open_examples(config.probe.source)
        sampler = Sampler(len(dataset), config.seed, 0, config.validation.held_out)
        self.mixture = [MixtureComponent("pictures", dataset, mean_colour, config.probe.batch_size, sampler)]
        self.config, self.classes, self.weights = config, dataset.classes, {"squares": 1.0}

    def build(self):
        torch.manual_seed(self.config.seed)
        self.model = Probe(3, self.classes)

    def prepare(self, inputs, key):
        return nn.functional.one_hot(inputs["pictures"]["labels"][:, 0], self.classes).float()

    def losses(self, outputs, prepared):
        squares, counts = (outputs - prepared).square().sum()[None], torch.tensor([len(outputs)])
        return {"squares": mean_over_processes(squares, counts)[0]}

    def export(self, folder, state):
        save_file(dict(state), folder / "probe.safetensors")


class LinearProbePlan(Planned):
    def __init__(self, config, folder):
        self.config, self.task, self.lines = config, LinearProbe(config, {}), [f"at {config.probe.source}"]

    def parameters(self):
        return {"probe": 4 * self.task.classes}

    def layer_groups(self):
        return [LayerGroup("pictures", self.config.probe.batch_size, tokens=1, width=3, layers=1)]

    def shrink(self, small):
        small.config.probe.batch_size = small.batch_size(self.config.probe.batch_size)
