"""The same run on one, two and three processes, stopped and resumed on as many or on another number."""

import numpy as np
import pytest
import torch
import training_workers as workers
from training_workers import STEPS, STOP, everything, full, resumed, wrapped

from onevision_hf.data.labelled import Example
from onevision_hf.training.loader import MicroBatches, open_loader
from onevision_hf.training.mixture import MixtureComponent, RankSlice
from onevision_hf.training.sampler import Sampler

pytestmark = pytest.mark.timeout(1500)  # a busy machine must not fail a test


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{(size, what, ...): [result of each process]}; the processes of a size start once."""
    folder = tmp_path_factory.mktemp("training")
    work = {
        2: [(everything,), (resumed, 2), (wrapped,), (full,)],
        1: [(everything,), (resumed, 1), (resumed, 2)],
        3: [(everything,), (resumed, 1)],
    }
    found = {}
    for size, jobs in work.items():
        for key, ranks in workers.run(size, folder, jobs).items():
            found[size, *key] = ranks
    return found


def losses(result):
    return torch.tensor([line["loss"] for line in result["log"]], dtype=torch.float64)


def straight(results, size):
    return results[size, "everything"][0]["straight"]


def relative(found, expected):
    return ((found - expected).abs() / expected.abs()).max().item()


def test_losses_of_twenty_steps_do_not_depend_on_the_number_of_processes(results):
    alone = losses(straight(results, 1))
    assert len(alone) == STEPS and len(set(alone.tolist())) == STEPS
    for size in (2, 3):
        assert straight(results, size)["size"] == size
        assert relative(losses(straight(results, size)), alone) < 1e-5
    # Clipping is part of what is compared: the norm is that of all processes, and it was above the limit.
    norms = [line["grad_norm"] for line in straight(results, 1)["log"]]
    assert sum(norm > workers.BASE["optim"]["max_grad_norm"] for norm in norms) > STEPS / 2


def test_every_process_holds_the_same_weights_and_average(results):
    for size in (2, 3):
        ranks = [rank["straight"]["tensors"] for rank in results[size, "everything"]]
        for other in ranks[1:]:
            assert all(torch.equal(other[name], tensor) for name, tensor in ranks[0].items())


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_resumed_on_as_many_processes_is_bit_equal_to_one_that_was_not_stopped(results, size):
    whole, again = straight(results, size), results[size, "resumed", size][0]
    assert [line["step"] for line in again["log"]] == list(range(1, STEPS + 1))
    assert torch.equal(losses(again), losses(whole))
    assert [line["lr"] for line in again["log"]] == [line["lr"] for line in whole["log"]]
    assert again["tensors"].keys() == whole["tensors"].keys()
    assert {name.split(".")[0] for name in whole["tensors"]} == {"model", "average", "optimizer", "sharded"}
    for name, tensor in whole["tensors"].items():
        assert torch.equal(again["tensors"][name], tensor), name
    assert again["validation"] == whole["validation"]


@pytest.mark.parametrize(("start", "size"), [(2, 1), (1, 3)])
def test_a_run_resumed_on_another_number_of_processes_goes_on_with_the_same_losses(results, start, size):
    again = losses(results[size, "resumed", start][0])
    assert relative(again, losses(straight(results, 1))) < 1e-5
    assert torch.equal(again[:STOP], losses(straight(results, start))[:STOP])


def test_validation_gives_the_same_figure_on_any_number_of_processes(results):
    alone = straight(results, 1)["validation"]
    assert [line["step"] for line in alone] == [0, 10, 20]
    for size in (2, 3):
        assert straight(results, size)["validation"] == alone


def test_row_sparse_centers_train_the_same_on_any_number_of_processes(results):
    alone = losses(results[1, "everything"][0]["sparse"])
    for size in (2, 3):
        assert relative(losses(results[size, "everything"][0]["sparse"]), alone) < 1e-5


def test_fsdp_takes_the_steps_that_ddp_takes(results):
    found = results[2, "wrapped"][0]
    for name in ("fsdp", "fsdp-resumed-ddp"):
        assert relative(losses(found[name]), losses(found["ddp"])) < 1e-5
        assert found[name]["validation"] == found["ddp"]["validation"]
    # Bfloat16 is rounded in other places, but neither goes another way.
    assert relative(losses(found["fsdp-low"]), losses(found["ddp-low"])) < 5e-3
    assert relative(losses(found["ddp-low"]), losses(found["ddp"])) < 5e-3


def test_weights_and_moments_stay_float32_under_bfloat16(results):
    for name in ("ddp-low", "fsdp-low"):
        tensors = results[2, "wrapped"][0][name]["tensors"].values()
        assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_a_step_in_four_micro_batches_is_the_step_in_one(results):
    found = results[2, "wrapped"][0]
    assert relative(losses(found["in 4"]), losses(found["in 1"])) < 1e-6
    # As many optimizer steps, each with the same rate: schedules count those and not micro-batches.
    assert [line["lr"] for line in found["in 4"]["log"]] == [line["lr"] for line in found["in 1"]["log"]]
    assert len(found["in 4"]["log"]) == 3


def test_a_disk_that_is_full_for_one_of_two_processes_stops_both_and_keeps_the_checkpoint(results):
    for said in results[2, "full"]:
        assert "step 4 could not be written" in said["full"] and "__1_0.distcp" in said["full"]
        assert "step-00000002 stays the latest" in said["full"]
        assert said["left"] == ["latest", "step-00000002"]
        assert said["on"] == 0


def test_what_one_process_wrote_and_is_missing_is_an_error_on_both(results):
    for said in results[2, "full"]:
        assert "__1_0.distcp is missing" in said["missing"] and "step-00000002" in said["missing"]


class Numbers:
    """Rows that are their numbers."""

    classes = None

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return Example(str(index), "number", None, np.array([index]))


def show(row, rng, position):
    return {"row": row.labels, "draw": rng.random(2)}


def test_worker_processes_give_the_same_micro_batches_in_order(results):  # after them: the forkserver is warm
    component = MixtureComponent("numbers", Numbers(), show, 12, Sampler(50, 5, component=0))
    alone = MicroBatches([component], RankSlice(5))
    for k, batch in zip(range(3, 7), open_loader([component], RankSlice(5), 3, 7, workers=2), strict=True):
        assert batch.keys == alone[k].keys
        assert torch.equal(batch.inputs["numbers"]["draw"], alone[k].inputs["numbers"]["draw"])
