"""The cluster objective in one process: published numbers, labels, sampling, precision, what is logged."""

from pathlib import Path

import pytest
import torch
from cluster_reference import dense_loss, python_hash, sampled_classes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from onevision_hf.objectives import ClusterDiscriminationLoss, cluster_memory, draw_together
from onevision_hf.objectives.cluster_sampling import LABELS, NEGATIVES, derive_key, draw_labels, keyed_hash

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cluster_loss"
DIM = 6


def build(num_classes=20, centers=None, **options):
    loss = ClusterDiscriminationLoss(num_classes, DIM, **options).double()
    generator = torch.Generator().manual_seed(1)
    loss.set_centers(torch.randn(num_classes, DIM, generator=generator) if centers is None else centers)
    return loss


def embed(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator, dtype=torch.float64, requires_grad=True)


def gradients(loss, embeddings, labels, **kwargs):
    embeddings.grad = loss.centers.grad = None
    value = loss(embeddings, labels, **kwargs)
    value.backward()
    return value.detach(), embeddings.grad, loss.centers.grad.to_dense()


@pytest.mark.parametrize("name", ["cosface", "cosface_filter"])
def test_the_recorded_tensors_of_the_published_loss_are_reproduced(name):
    stored = load_file(FIXTURES / f"{name}.safetensors")
    classes, dim = stored["centers"].shape
    loss = ClusterDiscriminationLoss(
        classes,
        dim,
        scale=stored["scale"].item(),
        margin=stored["margin"].item(),
        filter_threshold=stored["filter"].item(),
        sample_rate=1,
        sampling="per_label",
    )
    loss.set_centers(stored["centers"])
    embeddings = stored["embeddings"].requires_grad_()
    value = loss(embeddings, stored["labels"])
    value.backward()
    assert value.item() == pytest.approx(stored["loss"].item(), rel=1e-5)
    for found, expected in (
        (embeddings.grad, stored["grad_embeddings"]),
        (loss.centers.grad, stored["grad_centers"]),
    ):
        assert (found - expected).norm() <= 1e-5 * expected.norm()
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_labels_give_what_the_dense_reference_gives(data):
    classes, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    label = st.one_of(st.just(-100), st.integers(0, classes - 1))
    row = st.lists(label, min_size=width, max_size=width)
    labels = torch.tensor(data.draw(st.lists(row, max_size=5)), dtype=torch.int64).reshape(-1, width)
    options = {
        "form": data.draw(st.sampled_from(["softmax", "sigmoid"])),
        "sampling": data.draw(st.sampled_from(["shared", "per_label"])),
        "sample_rate": data.draw(st.sampled_from([0.01, 0.4, 1.0])),
        "filter_threshold": data.draw(st.sampled_from([0.0, 0.3])),
        "scale": data.draw(st.sampled_from([4.0, 64.0])),
        "margin": data.draw(st.sampled_from([0.0, 0.3])),
    }
    step = data.draw(st.integers(0, 2**40))
    loss = build(classes, labels_per_sample=4, sparse_grad=data.draw(st.booleans()), **options)
    embeddings, reference = embed(len(labels)), embed(len(labels))
    centers = loss.centers.detach().clone().requires_grad_()
    value, grad_embeddings, grad_centers = gradients(loss, embeddings, labels, step=step)
    expected, objective = dense_loss(reference, centers, labels, **options, step=step)
    objective.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad_embeddings, reference.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(grad_centers, centers.grad, rtol=1e-9, atol=1e-11)


def test_the_hash_is_splitmix64_and_a_draw_hits_its_rate_independently_of_the_step():
    key = derive_key(NEGATIVES, 3, 7, 0)
    classes = torch.arange(200_000)
    hashed = keyed_hash(classes, key)
    assert hashed[:100].tolist() == [python_hash(c, key) for c in range(100)]
    drawn = (hashed >> 31) < round(0.1 * 2**32)
    later = (keyed_hash(classes, derive_key(NEGATIVES, 3, 8, 0)) >> 31) < round(0.1 * 2**32)
    # Five standard deviations of a binomial are 671 of 20,000.
    assert abs(drawn.sum() - 20_000) < 671
    assert abs((drawn & later).sum() - 2_000) < 223


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
def test_every_positive_is_kept_and_the_rest_is_drawn_by_key(sampling):
    loss = build(500, sampling=sampling, sample_rate=0.1, labels_per_sample=3, seed=5)
    labels = torch.randint(0, 500, (7, 3), generator=torch.Generator().manual_seed(2))
    draw = loss.draw(labels, step=9)
    for column, selection in enumerate(draw.selections):
        positives = set(labels.flatten().tolist() if sampling == "shared" else labels[:, column].tolist())
        assert selection.rows.tolist() == sampled_classes(500, 0.1, 5, 9, column, positives)
    assert len(draw.selections) == (1 if sampling == "shared" else 3)


def test_steps_count_on_in_training_and_can_be_set():
    loss, embeddings = build(300, sample_rate=0.2), embed(4)
    labels = torch.arange(4)[:, None]
    first, second = loss(embeddings, labels), loss(embeddings, labels)
    assert first != second and loss.step == 2
    assert loss(embeddings, labels, step=1) == second and loss.step == 2
    loss.step = 0
    assert loss(embeddings, labels) == first
    loss.eval()
    assert loss(embeddings, labels) == loss(embeddings, labels) == second
    loss.seed = 1
    assert loss(embeddings, labels) != second


def test_samples_without_a_label_contribute_nothing():
    loss = build(sample_rate=1)
    labels = torch.tensor([[1, 2], [-100, -100], [3, -100]])
    embeddings = embed(3)
    value, grad, grad_centers = gradients(loss, embeddings, labels)
    kept = embed(3).detach()[[0, 2]].requires_grad_()
    expected, expected_grad, expected_centers = gradients(loss, kept, labels[[0, 2]])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad[[0, 2]], expected_grad)
    torch.testing.assert_close(grad_centers, expected_centers)
    assert not grad[1].any()
    nothing = gradients(loss, embeddings, torch.full((3, 2), -100))
    assert not any(part.any() for part in nothing)
    assert not any(part.any() for part in gradients(loss, embed(0), torch.empty(0, 8, dtype=torch.int64)))


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
def test_duplicates_and_missing_columns_count_once(sampling):
    loss, embeddings = build(sample_rate=1, sampling=sampling), embed(2)
    once = gradients(loss, embeddings, torch.tensor([[4, 7], [5, 6]]))
    padded = gradients(loss, embeddings, torch.tensor([[4, 7, -100], [5, 6, -100]]))
    repeated = gradients(loss, embeddings, torch.tensor([[4, 4, 7, 4], [5, 6, 6, 5]]))
    for found in (padded, repeated):
        for part, expected in zip(found, once, strict=True):
            torch.testing.assert_close(part, expected)


def test_of_many_labels_a_keyed_choice_is_used():
    labels = torch.stack([torch.randperm(1000)[:100] for _ in range(6)])
    labels[0, 3:] = -100
    labels[1, 50:] = labels[1, :50]
    drawn = draw_labels(labels, 8, 0, derive_key(LABELS, 0, 1))
    for before, after in zip(labels.tolist(), drawn.tolist(), strict=True):
        chosen = [label for label in after if label != -100]
        assert len(chosen) == len(set(chosen)) == min(8, len(set(before) - {-100}))
        assert [before.index(label) for label in chosen] == sorted(before.index(label) for label in chosen)
    # The number of a sample in the global batch decides, not its row on this process.
    assert torch.equal(draw_labels(labels[4:], 8, 4, derive_key(LABELS, 0, 1)), drawn[4:])
    assert not torch.equal(draw_labels(labels, 8, 0, derive_key(LABELS, 0, 2)), drawn)
    # Every label has its turn: 20 of 100 would be missed by 8 draws with a chance of 3e-10.
    turns = [
        set(draw_labels(labels[5:], 8, 5, derive_key(LABELS, 0, step))[0].tolist()) for step in range(400)
    ]
    assert set().union(*turns) == set(labels[5].tolist())


@pytest.mark.parametrize("value", [20, -1, 2**40])
def test_a_label_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=rf"label {value} is out of range.*0 to 19"):
        build()(embed(2), torch.tensor([[1, value], [-100, 3]]))


def test_inputs_that_do_not_fit_are_refused():
    loss = build()
    with pytest.raises(ValueError, match=r"embeddings are \(2, 5\), expected \(B, 6\)"):
        loss(torch.randn(2, 5), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 embeddings but 3 rows"):
        loss(embed(2), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels are \(2,\)"):
        loss(embed(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="float32, expected integers"):
        loss(embed(2), torch.zeros(2, 1))
    for wrong in (
        {"sample_rate": 0},
        {"sampling": "all"},
        {"form": "mlcd"},
        {"scale": 0},
        {"filter_threshold": 2},
        {"labels_per_sample": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ClusterDiscriminationLoss(20, DIM, **wrong)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_autocast_changes_nothing_but_what_it_did_to_the_embeddings(form):
    loss = build(50, form=form, sample_rate=0.5).float()
    embeddings = embed(4).detach().float().requires_grad_()
    labels = torch.randint(0, 50, (4, 8))
    expected = gradients(loss, embeddings, labels, step=0)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(loss, embeddings, labels, step=0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    half = embeddings.detach().bfloat16().requires_grad_()
    assert loss(half, labels).dtype == torch.float32
    assert loss(half.double(), labels).dtype == torch.float64


def test_the_loss_stays_finite_at_the_largest_logits():
    loss = build(10, sample_rate=1, scale=500.0, margin=1.0, filter_threshold=0).float()
    embeddings = (-loss.centers.detach()[:3] * 1e4).requires_grad_()  # as far from its positive as can be
    for labels in ([[0], [1], [2]], [[-100], [1], [2]], [list(range(10))] * 3):
        loss.labels_per_sample = len(labels[0])
        assert all(part.isfinite().all() for part in gradients(loss, embeddings, torch.tensor(labels)))


class Copies(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "unique_dim",
            "_unique2",
            "is_nonzero",
        ) or any(index is not None and index.dtype == torch.bool for index in indices):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_one_copy_to_the_host_a_step_whatever_the_columns_and_heads(monkeypatch, sampling, sparse_grad):
    losses = {
        name: build(sampling=sampling, sparse_grad=sparse_grad, sample_rate=0.5)
        for name in ("image", "ocr", "video")
    }
    labels = torch.randint(0, 20, (4, 12))
    embeddings = embed(4)
    copies = []
    for method in ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        original = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor,
            method,
            lambda self, *a, _m=method, _o=original, **k: copies.append(_m) or _o(self, *a, **k),
        )
    with Copies() as mode:
        losses["image"](embeddings, labels).backward()
        alone, copies[:] = list(copies), []
        draws = draw_together(losses, dict.fromkeys(losses, labels))
        sum(loss(embeddings, draws[name]) for name, loss in losses.items()).backward()
        metrics = [loss.last_metrics for loss in losses.values()]
    assert alone == copies == ["tolist"]
    assert mode.seen == []
    assert len(metrics) == 3


def test_what_is_logged_is_what_happened():
    loss = build(30, sample_rate=0.3, filter_threshold=0.2)
    assert loss.last_metrics == {} == loss.reduce_metrics()
    embeddings, labels = embed(5), torch.tensor([[1, 2], [3, -100], [-100, -100], [1, 5], [7, 8]])
    value, _, grad = gradients(loss, embeddings, labels, step=4)
    cosine = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(loss.centers).T
    positive = torch.zeros(5, 30, dtype=torch.bool)
    for i, row in enumerate(labels.tolist()):
        positive[i, [y for y in row if y >= 0]] = True
    drawn = sampled_classes(30, 0.3, 0, 4, 0, {1, 2, 3, 5, 7, 8})
    negative = torch.zeros_like(positive)
    negative[:, drawn] = True
    negative[2] = False
    negative &= ~positive
    expected = {
        "loss": value,
        "positive_cosine": cosine[positive].mean(),
        "negative_cosine": cosine[negative].mean(),
        "filtered_share": (cosine[negative] > 0.2).double().mean(),
        "positives_over_sampled": torch.tensor(6 / len(drawn), dtype=torch.float64),
        "grad_norm": grad.norm(),
    }
    for metrics in (loss.last_metrics, loss.reduce_metrics()):
        assert metrics.keys() == expected.keys()
        assert not any(metric.requires_grad for metric in metrics.values())
        for name, metric in metrics.items():
            torch.testing.assert_close(metric, expected[name].detach(), msg=name)


def test_centroids_become_centers_and_files_of_other_centers_are_refused(tmp_path):
    centroids = torch.randn(20, DIM)
    loss = ClusterDiscriminationLoss(20, DIM)
    loss.set_centers(centroids)
    assert torch.equal(loss.centers, centroids)
    with pytest.raises(ValueError, match=r"centroids are \(19, 6\), expected \(20, 6\)"):
        loss.set_centers(centroids[1:])
    centroids[3, 2] = float("nan")
    with pytest.raises(ValueError, match="center 3 has values that are not finite"):
        loss.set_centers(centroids)
    save_file({"centers": torch.randn(21, DIM)}, tmp_path / "more.safetensors")
    save_file({"weights": torch.randn(20, DIM)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "more.safetensors").read_bytes()[:-8])
    for name, message in (
        ("more", "21 centers of 6 dimensions, expected 20 of 6"),
        ("other", "weights"),
        ("cut", "not a whole safetensors file"),
    ):
        with pytest.raises(ValueError, match=message):
            loss.load_centers(tmp_path / f"{name}.safetensors")
    with pytest.raises(OSError):
        loss.load_centers(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("sampling", ["shared", "per_label"])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_the_memory_plan_is_what_a_step_keeps(sampling, sparse_grad):
    loss = ClusterDiscriminationLoss(4000, DIM, sampling=sampling, sparse_grad=sparse_grad)
    embeddings, labels = torch.randn(32, DIM, requires_grad=True), torch.randint(0, 4000, (32, 8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        value = loss(embeddings, labels)
    value.backward()
    plan = cluster_memory(4000, DIM, 32, sampling=sampling, sparse_grad=sparse_grad)
    assert plan["centers"] == loss.centers.nbytes
    grad = loss.centers.grad
    assert plan["gradient"] == pytest.approx((grad.values() if sparse_grad else grad).nbytes, rel=0.05)
    wide = [t for t in kept if t.ndim == 2 and t.shape[0] == 32 and t.shape[1] > 100]
    tall = [t for t in kept if t.ndim == 2 and t.shape[1] == DIM and t.shape[0] > 100]
    assert plan["logits"] == pytest.approx(sum(t.nbytes for t in wide), rel=0.1)
    assert plan["sampled"] == pytest.approx(sum(t.nbytes for t in tall), rel=0.1)


def test_the_memory_plan_divides_over_processes():
    plan, part = (cluster_memory(2_000_000, 1024, 5120, processes=n) for n in (1, 8))
    assert {name: plan[name] / part[name] for name in plan} == pytest.approx(dict.fromkeys(plan, 8), rel=1e-6)
