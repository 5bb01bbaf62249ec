"""Muon for the layers' matrices: what it does to one, and that a run with it goes on as if never stopped."""

import pytest
import torch
import training_workers as workers
from torch import nn

from onevision_hf.objectives.muon import AdamW, MuonAdamW, is_layer_matrix, orthogonal
from onevision_hf.training.config import ConfigError, OptimConfig, from_dict
from onevision_hf.training.optimisation import Optimizers

MUON = {
    "learning_rate": 1e-3,
    "muon_lr": 0.02,
    "warmup_steps": 3,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 5.0,
}


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24)])
def test_an_update_has_singular_values_near_one_and_the_directions_of_the_matrix(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-3
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and values.min() > 0.3 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    # In the matrix's own directions it is nearly diagonal.
    inner = u.T @ found @ v.T
    assert (inner - torch.diag(inner.diag())).abs().max() < 1e-3


def test_matrices_of_one_shape_are_made_orthogonal_together_and_stepped_by_their_rate():
    values = torch.linalg.svdvals(
        orthogonal(torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0)))
    )
    assert values.min() > 0.6 and values.max() < 1.3
    matrix = nn.Parameter(torch.zeros(8, 4))
    matrix.grad = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    MuonAdamW([{"params": [matrix], "muon": True}], lr=0.1, weight_decay=0.0).step()
    assert torch.linalg.svdvals(matrix.detach()).mean() == pytest.approx(0.1 * 2**0.5, rel=0.3)


def test_only_matrices_of_layers_are_for_muon():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 4)})
    chosen = {n for n, p in model.named_parameters() if is_layer_matrix(n, p)}
    assert chosen == {"layers.0.weight"}
    optimizers = Optimizers(model, {}, OptimConfig(**MUON))
    assert isinstance(optimizers.model, MuonAdamW)
    assert type(Optimizers(model, {}, OptimConfig()).model) is AdamW
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(0.5)
    # Muon moves every direction by its rate, AdamW every value by its own.
    moved = model["layers"][0].weight.detach() - before["layers.0.weight"] * (1 - 0.01 * 0.05)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.003 and values.max() < 0.013
    assert torch.allclose((model["head"].bias.detach() - before["head.bias"]).abs(), torch.tensor(5e-4))


def test_a_stopped_run_goes_on_to_the_bit(tmp_path):
    settings = {"max_steps": 6, "optim": MUON}
    straight = workers.train(tmp_path / "straight", **settings)
    workers.train(tmp_path / "stopped", stop_at=3, **settings)
    again = workers.train(tmp_path / "stopped", **settings)
    assert straight["tensors"].keys() == again["tensors"].keys()
    for name, tensor in straight["tensors"].items():
        assert torch.equal(tensor, again["tensors"][name]), name


def test_matrices_that_are_cut_are_refused():
    with pytest.raises(ConfigError, match=r"optim.muon_lr is 0.02, expected 0 with optim.parallel fsdp"):
        from_dict({"max_steps": 1, "optim": {"muon_lr": 0.02, "parallel": "fsdp"}})
