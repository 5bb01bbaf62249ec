"""A step on the host's side: what it asks of the device, and that it is not unrolled over heads and
labels.
"""

import collections
import copy

import pytest
import torch
import training_workers as workers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from onevision_hf.training.loader import MicroBatches
from onevision_hf.training.loop import Trainer
from onevision_hf.training.mixture import RankSlice

CLASSES, BATCH = 1000, 6
# What copies from the device to the host, or waits to learn the size of its result.
ASKING = {
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__,
    torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__, torch.Tensor.nonzero,
    torch.Tensor.unique, torch.nonzero, torch.unique, torch.masked_select,
}  # fmt: skip
SIZED = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select")


class Questions(TorchFunctionMode):
    """Counts what Python asks of tensors."""

    def __init__(self):
        super().__init__()
        self.asked = collections.Counter()

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function in ASKING:
            self.asked[function.__name__] += 1
        return function(*arguments, **(options or {}))


class Operations(TorchDispatchMode):
    """Counts operations, those that make the host wait, and the values of the largest wide result."""

    def __init__(self):
        super().__init__()
        self.count, self.sized, self.wide = 0, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.count += 1
        self.sized += function.overloadpacket.__name__ in SIZED
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] >= CLASSES:
                self.wide = max(self.wide, tensor.numel())
        return result


def step(out, heads, labels):
    """A micro-batch forward and backward with its clipping, watched."""
    head = {
        "batch_size": BATCH,
        "classes": CLASSES,
        "processor": {"size": 28},
        "max_labels": 8,
        "labels_per_sample": labels,
    }
    config = workers.make_config(out, cluster={"heads": {"image": head}})
    config.cluster.heads["video"] = copy.copy(config.cluster.heads["image"])
    for name in list(config.cluster.heads)[heads:]:
        del config.cluster.heads[name]
    config.cluster.sample_rate = 0.1
    trainer = Trainer(config, workers.make_rows(config))
    batch = MicroBatches(trainer.task.mixture, RankSlice(3))[0]
    trainer._accumulate(batch, 0, True)
    with Questions() as questions, Operations() as operations:
        trainer._accumulate(batch, 1, True)
        trainer.optimizers.clip()
        trainer.task.metrics()
    return questions.asked, operations


def test_a_micro_batch_asks_the_device_once_whatever_the_number_of_heads_and_labels(tmp_path):
    for heads, labels in ((1, 1), (1, 8), (2, 8)):
        asked, operations = step(tmp_path, heads, labels)
        assert asked == {"tolist": 1} and operations.sized == 0


def test_a_step_is_not_unrolled_over_the_labels_and_holds_no_one_hot_rows(tmp_path):
    one, eight = (step(tmp_path, 1, labels)[1] for labels in (1, 8))
    assert abs(eight.count - one.count) < 0.1 * one.count
    # A value for each class, yes; for each sample and class, no.
    assert eight.wide < BATCH * CLASSES


def test_the_state_of_a_step_is_read_when_the_next_one_is_under_way(tmp_path, monkeypatch):
    config = workers.make_config(tmp_path, max_steps=4, logging_steps=100)
    trainer, order = Trainer(config, workers.make_rows(config)), []
    accumulate, read_back = trainer._accumulate, trainer._read_back

    def noted_accumulate(batch, key, last):
        order.append(("run", key + 1))
        return accumulate(batch, key, last)

    def noted_read_back(pending, report):
        order.append(("read", pending[0]))
        return read_back(pending, report)

    monkeypatch.setattr(trainer, "_accumulate", noted_accumulate)
    monkeypatch.setattr(trainer, "_read_back", noted_read_back)
    assert trainer.fit() == 0
    assert order == [
        ("run", 1), ("run", 2), ("read", 1), ("run", 3), ("read", 2), ("run", 4), ("read", 3), ("read", 4),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_compiled_model_is_traced_once_for_its_fixed_shapes(tmp_path):
    from torch._dynamo.utils import counters

    config = workers.make_config(tmp_path, max_steps=5, optim={"compile": True})
    trainer, graphs = Trainer(config, workers.make_rows(config)), []
    accumulate = trainer._accumulate

    def counted(batch, key, last):
        found = accumulate(batch, key, last)
        graphs.append(counters["stats"]["unique_graphs"])
        return found

    trainer._accumulate = counted
    torch._dynamo.reset()  # what another test compiled is not traced again
    counters.clear()
    assert trainer.fit() == 0
    assert graphs[0] > 0 and set(graphs) == {graphs[0]}
