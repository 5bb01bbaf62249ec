"""Unified pre-training in the loop: one and two processes, stopped and resumed, and all losses at once."""

import pytest
import torch
import training_workers
from unified_workers import STEPS, STOP, both, resumed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

LOSSES = {"pixel/loss", "latent/loss", "caption/loss", "contrastive/loss"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{(size, what): [result of each process]}; one process runs first, the second number goes on from it."""
    folder = tmp_path_factory.mktemp("unified")
    found = {}
    for size in (1, 2):
        for (name,), ranks in training_workers.run(size, folder, [(both,), (resumed,)]).items():
            found[size, name] = ranks
    return found


def losses(result):
    return torch.tensor([line["loss"] for line in result["log"]], dtype=torch.float64)


def relative(found, expected):
    return ((found - expected).abs() / expected.abs()).max().item()


@pytest.mark.parametrize("name", ["recipe", "joint", "chunked", "sigmoid"])
def test_losses_do_not_depend_on_the_number_of_processes(results, name):
    alone, beside = results[1, "both"][0][name], results[2, "both"][0][name]
    assert relative(losses(beside), losses(alone)) < 1e-5
    for line, other in zip(alone["log"], beside["log"], strict=True):
        for key in LOSSES | {"pairs/token_rms", "pairs/contrastive_accuracy", "pairs/texts_cut"}:
            assert other[key] == pytest.approx(line[key], rel=1e-5, abs=1e-6), key


def test_the_log_has_every_loss_and_the_sum_of_the_paper(results):
    for line in results[1, "both"][0]["recipe"]["log"]:
        assert line.keys() >= LOSSES and "lpips/loss" not in line
        assert line["loss"] == pytest.approx(
            0.5 * line["pixel/loss"]
            + 0.2 * line["latent/loss"]
            + line["caption/loss"]
            + line["contrastive/loss"]
        )
        assert line["pairs/token_rms"] > 0
        assert line["pairs/noise_share"] == pytest.approx(0.8 / line["pairs/token_rms"], rel=1e-5)


def test_cluster_caption_contrast_and_reconstruction_train_one_encoder_in_one_run(results):
    joint = results[1, "both"][0]["joint"]
    assert LOSSES | {"image/loss", "video/loss"} <= joint["log"][0].keys()
    assert {"sharded.image.centers", "sharded.video.centers"} <= joint["tensors"].keys()
    for rank in results[2, "both"]:  # centers are cut over the processes, and whole when put together
        for name in (
            "sharded.image.centers",
            "sharded.video.centers",
            "model.model.caption_decoder.vocabulary.weight",
        ):
            one, two = joint["tensors"][name], rank["joint"]["tensors"][name]
            assert (one - two).norm() < 1e-3 * one.norm(), name


def test_chunks_and_fsdp_take_the_steps_of_the_plain_run(results):
    plain = losses(results[1, "both"][0]["recipe"])
    # The schedule of two steps is another one, so its first steps alone are the same.
    few = results[2, "both"][0]
    assert relative(losses(few["fsdp"]), losses(few["chunked"])) < 1e-5
    assert relative(losses(few["chunked"])[:1], plain[:1]) < 1e-6


def test_what_has_no_weight_is_neither_computed_nor_waited_for(results):
    log = results[2, "both"][0]["captions alone"]["log"]
    assert {key for key in log[0] if key.endswith("/loss")} == {"caption/loss"}


@pytest.mark.parametrize("size", [1, 2])
def test_a_resumed_run_is_bit_equal_to_one_that_was_not_stopped(results, size):
    whole, again = results[size, "both"][0]["recipe"], results[size, "resumed"][0]["same"]
    assert [line["step"] for line in again["log"]] == list(range(1, STEPS + 1))
    assert torch.equal(losses(again), losses(whole))
    assert again["tensors"].keys() == whole["tensors"].keys()
    assert all(torch.equal(again["tensors"][name], tensor) for name, tensor in whole["tensors"].items())


def test_a_run_of_one_process_goes_on_with_two(results):
    other = losses(results[2, "resumed"][0]["other"])
    assert torch.equal(other[:STOP], losses(results[1, "both"][0]["recipe"])[:STOP])
    assert relative(other, losses(results[1, "both"][0]["recipe"])) < 1e-5
