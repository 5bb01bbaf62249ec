"""Data workers: what they give, what is said when one raises or dies, and that none is left."""

import multiprocessing
import os
import re
import signal
from contextlib import closing
from functools import partial

import numpy as np
import processes
import pytest
import torch
from processes import wait_for

from onevision_hf.data.labelled import Example
from onevision_hf.training.loader import MicroBatches, open_loader
from onevision_hf.training.mixture import MixtureComponent, RankSlice
from onevision_hf.training.sampler import Sampler
from onevision_hf.training.workers import AHEAD, Ahead, DataError, Notes


class Numbers:
    """Rows that are their numbers; those in `broken` cannot be read."""

    classes = None

    def __init__(self, broken=()):
        self.broken = set(broken)

    def __len__(self):
        return 50

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"row {index} is gone")
        return Example(f"number/{index}", "number", None, np.array([index]))


def show(row, rng, position):
    return {"row": row.labels}


class Trap:
    """A transform that does something else at one position."""

    def __init__(self, position, what):
        self.position, self.what = position, what

    def __call__(self, row, rng, position):
        if position == self.position:
            self.what()
        return show(row, rng, position)


def component_of(transform=show, broken=()):
    return MixtureComponent("numbers", Numbers(broken), transform, 4, Sampler(50, 5, component=0))


def loader(component, batches=6, number=2, start=0):
    return open_loader([component], RankSlice(5), start, start + batches, workers=number)


def mistake():
    raise TypeError("a mistake\nof two lines")


def exit_with_7():
    os._exit(7)


def kill_this():
    os.kill(os.getpid(), signal.SIGKILL)


def children():
    """Data workers and whatever else multiprocessing has started here and not seen end."""
    return multiprocessing.active_children()


def count_up(number, worker, count, notes):
    return (torch.tensor([i]) for i in range(worker, number, count))


@pytest.mark.parametrize(("number", "processes"), [(7, 0), (7, 1), (7, 3), (2, 3), (0, 2)])
def test_items_come_in_their_order_whatever_the_number_of_workers(number, processes):
    items = list(Ahead(partial(count_up, number), number, processes))
    assert [item.item() for item in items] == list(range(number))
    assert not children()


def test_a_broken_sample_is_replaced_and_recorded_by_a_worker_as_without_one():
    for number in (0, 1):
        batches = list(loader(component_of(broken=[3, 8]), 12, number))
        keys = [key for batch in batches for key in batch.keys["numbers"]]
        assert len(keys) == 48 and not {"number/3", "number/8"} & set(keys)
        assert {record["key"] for batch in batches for record in batch.broken} == {"example 3", "example 8"}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_sixteen_broken_rows_in_a_row_name_the_last_and_leave_no_worker(number):
    said = r"component numbers: 16 broken examples in a row at position \d, the last one "
    said += r"example (\d+): row \1 is gone"
    with pytest.raises(DataError, match=rf"^(?:data worker \d of \d: )?{said}$"):
        list(loader(component_of(broken=range(50)), number=number))
    assert not children()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_mistake_names_the_sample_the_error_and_the_line_in_one_line(number):
    key = MicroBatches([component_of()], RankSlice(5))[2].keys["numbers"][1]
    batches = loader(component_of(Trap(9, mistake)), number=number)
    with pytest.raises(DataError) as caught:
        list(batches)
    said = rf"component numbers, sample {key}: TypeError: a mistake of two lines "
    said += r"\(test_training_workers.py:\d+\)"
    assert re.fullmatch(rf"(data worker 0 of {number}: )?{said}", str(caught.value))
    assert not children()


def test_what_a_worker_cannot_unpack_or_send_is_an_error_and_no_wait():
    with pytest.raises(DataError, match=r"before the first sample: .*lambda"):
        list(Ahead(give_a_lambda, 1, 1))
    assert not children()


def give_a_lambda(worker, count, notes):
    yield lambda: 0


@pytest.mark.parametrize(
    ("what", "said"), [(kill_this, r"was killed \(SIGKILL"), (exit_with_7, "ended with status 7")]
)
def test_a_worker_that_dies_names_the_component_and_the_keys_of_the_batches_that_it_held(what, said):
    # Sample 9 is the second of the batch 2, which is the second of worker 0.
    begun = MicroBatches([component_of()], RankSlice(5))[2].keys["numbers"][:2]
    batches = loader(component_of(Trap(9, what)))
    with pytest.raises(DataError, match=said) as caught:
        list(batches)
    assert f"its last sample was {begun[-1]} of component numbers" in str(caught.value)
    assert str(caught.value).endswith(f"{', '.join(begun)} of component numbers")
    assert "\n" not in str(caught.value) and caught.value.held["numbers"][-2:] == begun
    assert not children()


def test_a_worker_killed_while_nobody_waits_held_what_was_not_taken():
    alone = MicroBatches([component_of()], RankSlice(5))
    held = [key for k in range(1, 1 + AHEAD) for key in alone[k].keys["numbers"]]
    with closing(iter(loader(component_of(), 20, 1))) as batches:
        next(batches)
        crew = batches.gi_frame.f_locals["crew"]
        (worker,) = crew._workers
        assert wait_for(lambda: [key for _, key in Notes(worker.memory).read(1)] == held, 60)
        os.kill(worker.process.pid, signal.SIGKILL)
        assert wait_for(lambda: crew._failure is not None, 60)
        with pytest.raises(DataError, match="SIGKILL") as caught:
            next(batches)
    assert caught.value.held == {"numbers": held}
    assert not children()


def test_signals_to_the_group_do_not_end_a_worker():
    with closing(iter(loader(component_of(), 20, 1))) as batches:
        next(batches)
        (worker,) = children()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 19


def test_workers_end_with_the_iteration_however_that_ends():
    batches = iter(loader(component_of(), 20))
    next(batches)
    assert len(children()) == 2
    batches.close()
    assert not children()

    batches = iter(loader(component_of(), 20))
    next(batches)
    del batches  # forgotten
    assert not children()


def begin(pids):
    """What a process does that ends without having closed its loader."""
    batches = iter(loader(component_of(), 20))
    next(batches)
    pids.send([worker.pid for worker in children()])
    globals()["kept"] = batches
    pids.recv()
    raise SystemExit(3)


@pytest.mark.parametrize("killed", [False, True])
def test_workers_end_with_the_process_that_started_them_however_that_ends(killed):
    here, there = multiprocessing.Pipe()
    process = processes.context().Process(target=begin, args=(there,))
    process.start()
    pids = here.recv()
    assert len(pids) == 2 and all(map(processes.is_running, pids))
    if killed:
        process.kill()
    else:
        here.send("end")
    process.join(60)
    assert process.exitcode == (-9 if killed else 3)
    assert wait_for(lambda: not any(map(processes.is_running, pids)), 30)


def test_notes_keep_the_last_samples_of_an_item_when_there_is_no_room_for_all():
    notes = Notes()
    notes.item(0)
    for number in range(30_000):
        notes.sample("stream", f"row {number}")
        notes.sample("stream", f"key-{number:05d}\nof two lines", found=True)
    read = notes.read()
    assert read[-1] == ("stream", "key-29999 of two lines")
    assert len(read) > 1000 and all(re.fullmatch(r"key-\d{5} of two lines", key) for _, key in read)
    notes.item(AHEAD)
    assert notes.read() == []
