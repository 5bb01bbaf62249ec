"""Row-sparse AdamW is AdamW on the rows that have a gradient."""

import copy

import pytest
import torch

from onevision_hf.objectives import ClusterDiscriminationLoss, RowSparseAdamW

OPTIONS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def losses(sampling, sample_rate):
    return (
        ClusterDiscriminationLoss(
            30, 4, sampling=sampling, sample_rate=sample_rate, scale=8.0, sparse_grad=sparse
        ).double()
        for sparse in (False, True)
    )


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        embeddings = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        yield embeddings, torch.randint(0, 30, (5, 3), generator=generator)


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
def test_with_every_row_sampled_it_is_adamw(sampling):
    dense, sparse = losses(sampling, 1)
    expected = torch.optim.AdamW([dense.centers], **OPTIONS)
    found = RowSparseAdamW([sparse.centers], **OPTIONS)
    for embeddings, labels in batches(6):
        for loss, optimizer in ((dense, expected), (sparse, found)):
            optimizer.zero_grad()
            loss(embeddings, labels).backward()
            optimizer.step()
        torch.testing.assert_close(sparse.centers, dense.centers, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
def test_each_row_takes_the_steps_of_an_adamw_that_sees_it_alone(sampling):
    dense, sparse = losses(sampling, 0.3)
    found = RowSparseAdamW([sparse.centers], **OPTIONS)
    rows = [torch.nn.Parameter(row.clone()) for row in sparse.centers.detach()]
    alone = [torch.optim.AdamW([row], **OPTIONS) for row in rows]
    touched = torch.zeros(30, dtype=torch.int32)
    for embeddings, labels in batches(6):
        dense.centers.data.copy_(sparse.centers.data)
        for loss in (dense, sparse):
            loss.centers.grad = None
            loss(embeddings, labels).backward()
        assert sparse.centers.grad.is_coalesced()
        torch.testing.assert_close(sparse.centers.grad.to_dense(), dense.centers.grad, rtol=1e-12, atol=1e-15)
        sampled = sparse.centers.grad.coalesce().indices()[0].tolist()
        assert len(sampled) < 30
        for row in sampled:
            rows[row].grad = dense.centers.grad[row].clone()
            alone[row].step()
            touched[row] += 1
        found.step()
        torch.testing.assert_close(
            sparse.centers.data, torch.stack([r.data for r in rows]), rtol=1e-12, atol=1e-14
        )
    assert torch.equal(found.state[sparse.centers]["row_steps"], touched)
    assert touched.unique().numel() > 1


def test_gradients_of_several_micro_batches_add_up():
    dense, sparse = losses("shared", 0.3)
    for embeddings, labels in batches(3):
        for loss in (dense, sparse):
            loss(embeddings, labels).backward()
    torch.testing.assert_close(sparse.centers.grad.to_dense(), dense.centers.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sparse.grad_norm(), dense.centers.grad.norm())


def test_a_stored_optimizer_goes_on_where_it_stopped():
    _, loss = losses("shared", 0.3)
    optimizer = RowSparseAdamW([loss.centers], **OPTIONS)
    *first, last = batches(4)
    for embeddings, labels in first:
        optimizer.zero_grad()
        loss(embeddings, labels).backward()
        optimizer.step()
    other = ClusterDiscriminationLoss(30, 4, sample_rate=0.3, scale=8.0, sparse_grad=True).double()
    other.load_state_dict(loss.state_dict())
    resumed = RowSparseAdamW([other.centers], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, taker in ((loss, optimizer), (other, resumed)):
        taker.zero_grad()
        each(*last, step=3).backward()
        taker.step()
    assert torch.equal(other.centers, loss.centers)
    assert resumed.state[other.centers]["row_steps"].dtype == torch.int32


def test_a_dense_gradient_is_refused():
    loss, _ = losses("shared", 1)
    embeddings, labels = next(batches(1))
    loss(embeddings, labels).backward()
    with pytest.raises(ValueError, match="sparse_grad=True"):
        RowSparseAdamW([loss.centers]).step()
    with pytest.raises(ValueError, match="lr -1"):
        RowSparseAdamW([loss.centers], lr=-1)
