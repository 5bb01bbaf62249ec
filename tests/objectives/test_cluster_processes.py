"""One, two and three processes compute the same cluster loss and gradients, equal to a dense reference."""

import cluster_workers as workers
import pytest
import torch
from cluster_reference import dense_loss
from cluster_workers import CASES, FIXED, SIZES
from processes import run
from safetensors.torch import load_file

from onevision_hf.objectives import ClusterDiscriminationLoss

NAMES = ["-".join(str(v) for v in case.values()) for case in CASES]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with random centers in `one.safetensors`, written without any process group."""
    folder = tmp_path_factory.mktemp("processes")
    loss = ClusterDiscriminationLoss(37, workers.DIM)
    torch.nn.init.normal_(loss.centers, generator=torch.Generator().manual_seed(0))
    loss.save_centers(folder / "one.safetensors")
    return folder


@pytest.fixture(scope="module")
def results(written):
    """{(size, what, ...): [result of each process]}, from three processes."""
    ranks = run(workers.main, written, size=3)
    return {key: [rank[key] for rank in ranks if key in rank] for key in ranks[0] | ranks[1] | ranks[2]}


def relative(found, expected):
    return (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_any_number_of_processes_equals_the_dense_reference(results, index):
    case = CASES[index]
    inputs, weight, centers, labels = workers.case_batch(case)
    weight.requires_grad_()
    centers.requires_grad_()
    options = {k: v for k, v in {**FIXED, **case}.items() if k not in ("num_classes", "labels_per_sample")}
    value, objective = dense_loss(inputs @ weight.T, centers, labels, **options, step=3)
    objective.backward()
    for size in SIZES:
        for kind in ("case", "sparse"):
            ranks = results[size, kind, index]
            assert len(ranks) == size
            for rank in ranks:
                assert relative(rank["loss"], value) < 1e-10
                assert relative(rank["backbone"], weight.grad) < 1e-10
                assert relative(rank["grad_norm"], centers.grad.norm()) < 1e-10
            assert relative(torch.cat([rank["centers"] for rank in ranks]), centers.grad) < 1e-10


def test_reduced_metrics_do_not_depend_on_the_number_of_processes(results):
    for index in range(len(CASES)):
        alone = results[1, "case", index][0]["metrics"]
        assert 0 < alone["positives_over_sampled"] <= 1
        for size in (2, 3):
            for rank in results[size, "case", index]:
                assert rank["metrics"].keys() == alone.keys()
                for name, value in alone.items():
                    torch.testing.assert_close(rank["metrics"][name], value, rtol=1e-9, atol=1e-12)


def test_training_with_drawn_labels_and_negatives_is_the_same_on_any_number_of_processes(results):
    alone = results[1, "train"][0]
    assert len(set(alone["trace"])) == 5
    for size in (2, 3):
        ranks = results[size, "train"]
        torch.testing.assert_close(
            torch.cat([r["centers"] for r in ranks]), alone["centers"], rtol=1e-9, atol=0
        )
        for rank in ranks:
            assert rank["trace"] == pytest.approx(alone["trace"], rel=1e-10)
            torch.testing.assert_close(rank["backbone"], alone["backbone"], rtol=1e-9, atol=0)


def test_a_label_out_of_range_on_one_process_is_an_error_on_all(results):
    for size in SIZES:
        for message in results[size, "out_of_range"]:
            assert message is not None
            assert "label 37" in message and "0 to 36" in message


def test_losses_that_draw_together_give_what_each_gives_alone(results):
    for size in SIZES:
        for rank in results[size, "heads"]:
            assert relative(rank["image"], results[1, "case", 1][0]["loss"]) < 1e-12
            assert relative(rank["video"], results[1, "case", 3][0]["loss"]) < 1e-12


def test_centers_start_the_same_and_are_read_and_written_by_any_number_of_processes(results, written):
    expected = load_file(written / "one.safetensors")["centers"]
    initial = ClusterDiscriminationLoss(37, workers.DIM).centers.detach()
    for size in SIZES:
        ranks = results[size, "file"]
        # DTensor's Shard(0) cuts as torch.chunk does.
        assert [len(r["loaded"]) for r in ranks] == [len(part) for part in expected.chunk(size)]
        assert torch.equal(torch.cat([r["loaded"] for r in ranks]), expected)
        assert torch.equal(torch.cat([r["initial"] for r in ranks]), initial)
        assert torch.equal(load_file(written / f"by{size}.safetensors")["centers"], expected)


def test_centers_that_cannot_be_written_are_an_error_on_every_process(results):
    for size in SIZES:
        assert all("centers could not be written" in rank["error"] for rank in results[size, "file"])
