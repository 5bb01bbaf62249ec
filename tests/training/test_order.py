"""The order of the data: every row once an epoch, decided by (seed, epoch), cut over processes without
loss.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.jobs.processes import Processes
from onevision_hf.training.loader import MicroBatches, open_loader
from onevision_hf.training.mixture import MixtureComponent, RankSlice
from onevision_hf.training.sampler import Permutation, Sampler


@given(size=st.integers(1, 3000), key=st.integers(0, 2**40))
def test_a_permutation_takes_every_row_once(size, key):
    assert sorted(Permutation(size, key)(np.arange(size))) == list(range(size))


def test_permutations_of_different_keys_differ_and_leave_no_trace_of_the_order():
    one, two = (Permutation(1000, key)(np.arange(1000)) for key in (1, 2))
    assert (one == two).mean() < 0.02
    assert abs(np.corrcoef(one, np.arange(1000))[0, 1]) < 0.15
    assert abs(np.corrcoef(np.diff(one), np.arange(999))[0, 1]) < 0.15


@given(rows=st.integers(2, 200), share=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_held_out_rows_are_never_trained_on_and_all_others_are_once_an_epoch(rows, share, seed):
    if round(rows * share) >= rows:
        return
    sampler = Sampler(rows, seed, component=0, held_out=share)
    epochs = sampler(np.arange(2 * len(sampler))).reshape(2, -1)
    for epoch in epochs:
        assert sorted([*epoch, *sampler.held_out]) == list(range(rows))
    replaced = {sampler.replacement(7, attempt) for attempt in range(50)}
    assert not replaced & set(sampler.held_out.tolist())


@given(total=st.integers(0, 50), size=st.integers(1, 7))
def test_the_shares_of_all_processes_are_the_whole(total, size):
    parts = [Processes(rank, size).part(total) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Numbers:
    """Rows that are their numbers; some cannot be read."""

    classes = None

    def __init__(self, rows, broken=()):
        self.rows, self.broken = rows, set(broken)

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"row {index} is gone")
        self.key = str(index)
        return self


def number(row, rng, position):
    """What the view shows: the row, the position, and a draw of the item's generator."""
    return {"row": np.array([int(row.key), position]), "draw": rng.random(2)}


def read(rows, k, share=None, batch=12, **options):
    share = share or RankSlice(seed=5, **options)
    component = MixtureComponent("numbers", rows, number, batch, Sampler(len(rows), share.seed, component=0))
    return MicroBatches([component], share)[k]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_is_the_same_samples_with_the_same_draws_on_any_number_of_processes(size, accumulation):
    def step(number_of, size, accumulation):
        micros = range(number_of * accumulation, (number_of + 1) * accumulation)
        parts = [
            read(Numbers(50), k, rank=rank, size=size, accumulation=accumulation)
            for k in micros for rank in range(size)
        ]  # fmt: skip
        return [
            np.concatenate([p.inputs["numbers"][name].numpy() for p in parts]) for name in ("row", "draw")
        ]

    if size > 12 // accumulation:
        pytest.skip("fewer samples than processes")
    for number_of in (0, 4):
        for found, expected in zip(step(number_of, size, accumulation), step(number_of, 1, 1), strict=True):
            assert np.array_equal(found, expected)


def test_a_broken_row_is_recorded_and_another_that_the_position_decides_takes_its_place():
    broken = read(Numbers(50, broken=[3, 8, 40]), 0, batch=50)
    assert sorted(record["key"] for record in broken.broken) == ["example 3", "example 40", "example 8"]
    again = read(Numbers(50, broken=[3, 8, 40]), 0, batch=50)
    assert broken.keys == again.keys and len(broken.keys["numbers"]) == 50
    assert not {"3", "8", "40"} & set(broken.keys["numbers"])
    whole = read(Numbers(50), 0, batch=50)
    kept = [(a, b) for a, b in zip(broken.keys["numbers"], whole.keys["numbers"], strict=True) if a != b]
    assert len(kept) == 3


def test_a_source_that_is_all_broken_is_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="16 broken examples in a row"):
        read(Numbers(50, broken=range(50)), 0)


def test_a_batch_that_leaves_a_process_without_a_sample_is_refused():
    component = MixtureComponent("numbers", Numbers(50), number, 4, Sampler(50, 5, component=0))
    with pytest.raises(ValueError, match="5 processes cannot share a micro-batch of 4"):
        open_loader([component], RankSlice(5, size=5), 0, 1)
