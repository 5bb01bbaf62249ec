"""Discrimination of samples among up to millions of cluster centers, split over processes.

    from onevision_hf.objectives import ClusterDiscriminationLoss

    objective = ClusterDiscriminationLoss(num_classes=100_000, embedding_dim=1024)
    objective.load_centers("centers.safetensors")            # k-means centroids; or train from random ones
    loss = objective(model(images).pooler_output, labels)    # labels (B, M) int64, -100 where there is none
    loss.backward()                                          # into objective.centers and the encoder

docs/cluster-loss.md has memory, scaling to many processes, and what to log.
"""

import math
from collections.abc import Mapping
from os import PathLike
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from .cluster_function import ClusterDiscrimination, Scoring
from .cluster_sampling import CENTERS, CollectedLabels, Draw, collect_labels, derive_key, finalise
from .cluster_storage import load_rows, save_rows
from .collectives import all_reduce_, owned_rows, size_of

SHORTEST = 1e-3  # embedding that is normalised by its length
INITIAL_STD = 0.01  # of random centers, as published
_INITIAL_BLOCK = 4096  # rows that share a generator


class ClusterDiscriminationLoss(nn.Module):
    """Softmax or sigmoid discrimination of embeddings among sampled cluster centers.

    With c the cosine of an embedding and a center, a positive's logit is scale * (c - margin) and a
    negative's scale * c, or 0 where c is above `filter_threshold` (0: no filter): a center that near is
    probably the same thing under another number. The loss of a sample with label y is, over the sampled
    negatives k,

        softmax:  log(e^z_y + sum_k e^z_k) - z_y            training/fused_partial_fc_v2_multi_res.py
        sigmoid:  log(1 + e^-z_y) + sum_k log(1 + e^z_k)    arXiv 2602.08683, equation 9, without its 1/pairs

    then a mean over the labels of a sample and a mean over the samples of all processes that have a label.
    `forward` returns this global mean on every process.

    In the field's words: a softmax over sampled classes, split as in PartialFC (arXiv 2203.15565), with the
    additive cosine margin of CosFace (arXiv 1801.09414) and not the additive angle of ArcFace (1801.07698).

    Sampling: class k is a negative of a step when a hash of (seed, step, k) is below `sample_rate`; positives
    of the global batch are always in. So the draw is the same on any number of processes.

    - "shared": one draw, and one product, for all label columns; a sample's other labels are not among its
      negatives.
    - "per_label": as published, a draw for each column (positives of that column only are always in), and a
      sample's other labels are negatives like any. With the softmax form it also reports as published: no
      label's term of the value is above -log(1e-30) = 69.08 (the gradient is not cut), and the gradient is
      that of the sum, not the mean, over a sample's labels: 8 times larger with 8 labels.

    Labels: -100 is none, repeats in a row count once. Of more than `labels_per_sample` columns, that many are
    drawn per sample by a hash of (seed, step, number of the sample in the global batch); a label that is not
    drawn is an ordinary class in that step.

    Gradients: those of `centers` are complete as they are, so keep this module out of DDP and FSDP, which
    would average different rows. Those of the embeddings are **multiplied by the number of processes**,
    because DDP and FSDP divide by it: under them the encoder receives the gradient of the global mean.
    Without such a wrapper (gradients summed by hand), divide by it.

    Args:
        num_classes: centers over all processes, C.
        embedding_dim: D.
        scale: of cosines, above 0 (CosFace's s).
        margin: taken off a positive's cosine (CosFace's m).
        filter_threshold: cosine from which on a negative counts as a logit of 0, in [0, 1]; 0 is no filter.
        sample_rate: fraction of the classes that are negatives, in (0, 1]; 1 is the full softmax.
        labels_per_sample: labels that are used of a sample, M; of more, so many are drawn.
        sampling: `shared`: the sampled classes of a step are those of all label columns (PartialFC);
            `per_label`: each column draws its own.
        form: `softmax` or `sigmoid`.
        process_group: where the centers are split; None is the default group, or no splitting without one.
        sparse_grad: give `centers.grad` the sampled rows only (a sparse tensor, for `RowSparseAdamW`).
        seed: of the initial centers and of all draws.

    Attributes:
        centers: parameter (c, D), the rows `class_range` of the whole matrix (as `torch.chunk` splits it; a
            last process may have none). Random with deviation 0.01, the same on any number of processes.
        seed, step: key of the draws. `step` counts calls in training mode; set it, or pass it, to resume.
        last_metrics: see there.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        scale: float = 64.0,
        margin: float = 0.3,
        filter_threshold: float = 0.75,
        sample_rate: float = 0.1,
        labels_per_sample: int = 8,
        sampling: Literal["shared", "per_label"] = "shared",
        form: Literal["softmax", "sigmoid"] = "softmax",
        process_group: dist.ProcessGroup | None = None,
        sparse_grad: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        _require(num_classes >= 1, "num_classes", num_classes, "at least 1")
        _require(embedding_dim >= 1, "embedding_dim", embedding_dim, "at least 1")
        _require(0 < scale < math.inf, "scale", scale, "above 0 and finite")
        _require(math.isfinite(margin), "margin", margin, "a finite number")
        _require(
            0 <= filter_threshold <= 1, "filter_threshold", filter_threshold, "a cosine from 0 (off) to 1"
        )
        _require(0 < sample_rate <= 1, "sample_rate", sample_rate, "above 0 and at most 1")
        _require(labels_per_sample >= 1, "labels_per_sample", labels_per_sample, "at least 1")
        _require(sampling in ("shared", "per_label"), "sampling", sampling, "'shared' or 'per_label'")
        _require(form in ("softmax", "sigmoid"), "form", form, "'softmax' or 'sigmoid'")
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.scale = scale
        self.margin = margin
        self.filter_threshold = filter_threshold
        self.sample_rate = sample_rate
        self.labels_per_sample = labels_per_sample
        self.sampling = sampling
        self.form = form
        self.sparse_grad = sparse_grad
        self.seed = seed
        self.step = 0
        self.process_group = process_group
        self.class_range = owned_rows(num_classes, process_group)
        self.centers = nn.Parameter(torch.empty(len(self.class_range), embedding_dim))
        self._sums: Tensor | None = None
        self._loss: Tensor | None = None
        self._gradient_rows = -1
        if sparse_grad:
            self.centers.register_post_accumulate_grad_hook(self._mark_coalesced)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random centers from `seed`. Each block of 4096 classes has a generator, whoever owns its rows."""
        own = self.class_range
        for start in range(own.start - own.start % _INITIAL_BLOCK, own.stop, _INITIAL_BLOCK):
            generator = torch.Generator().manual_seed(derive_key(CENTERS, self.seed, start))
            block = torch.randn(
                _INITIAL_BLOCK, self.embedding_dim, generator=generator, dtype=torch.float32, device="cpu"
            )
            first, last = max(start, own.start), min(start + _INITIAL_BLOCK, own.stop)
            rows = block[first - start : last - start] * INITIAL_STD
            self.centers[first - own.start : last - own.start].copy_(rows)

    def forward(self, embeddings: Tensor, labels: Tensor | Draw, *, step: int | None = None) -> Tensor:
        """The global mean loss (), in float32 or wider; every process calls this, with 0 rows too.

        Args:
            embeddings: (B, D), not normalised; B may differ between processes. One that is shorter than 0.001
                is divided by that, so an encoder that has collapsed gets no gradient without bound.
            labels: (B, M) integers, or what `draw` or `draw_together` made of them for this step.
            step: key of the draws; None is `self.step`, which counts on by itself in training mode.

        Raises:
            ValueError: shapes that do not fit, or a label out of range anywhere in the global batch.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, expected (B, {self.embedding_dim})")
        rows = labels.local_rows if isinstance(labels, Draw) else labels.shape[0]
        if rows != embeddings.shape[0]:
            raise ValueError(f"{embeddings.shape[0]} embeddings but {rows} rows of labels")
        drawn = labels if isinstance(labels, Draw) else self.draw(labels, step=step)

        scoring = Scoring(
            scale=self.scale,
            margin=self.margin,
            filter_threshold=self.filter_threshold,
            sigmoid=self.form == "sigmoid",
            as_published=self.form == "softmax" and self.sampling == "per_label",
            sparse_grad=self.sparse_grad,
        )
        # A scale of 64 makes of a bfloat16 cosine's rounding (2^-9 near 0.7) an eighth of a logit, and
        # sampling leaves one small product: all of it runs in float32, or wider, whatever autocast says.
        with torch.autocast(embeddings.device.type, enabled=False):
            dtype = torch.promote_types(
                torch.promote_types(embeddings.dtype, self.centers.dtype), torch.float32
            )
            normalised = F.normalize(embeddings.to(dtype), dim=1, eps=SHORTEST)
            loss, sums = ClusterDiscrimination.apply(
                normalised, self.centers, drawn, scoring, self.process_group
            )
        self._gradient_rows = drawn.gradient_rows
        self._loss = loss.detach()
        self._sums = torch.cat([sums, drawn.counts.to(sums.dtype)])
        return loss

    def _mark_coalesced(self, centers: Tensor) -> None:
        # Autograd forgets that distinct, sorted rows came; finding it out again would wait for the device.
        # When another backward pass was added, there are more of them, and `coalesce` has work to do.
        grad = centers.grad
        if grad is not None and grad.is_sparse and grad._nnz() == self._gradient_rows:
            grad._coalesced_(True)

    def draw(self, labels: Tensor, *, step: int | None = None) -> Draw:
        """Choose labels and classes of a step: everything of it that does not need the embeddings.

        Every process calls this. It is the only place where the host waits for the device (one copy), so
        calling it before the encoder runs keeps the device busy; several losses wait once with
        `draw_together`.
        """
        return draw_together({"": self}, {"": labels}, step=step)[""]

    def _collect_labels(self, labels: Tensor, step: int | None) -> CollectedLabels:
        if labels.ndim != 2 or (labels.shape[0] and not labels.shape[1]):
            raise ValueError(f"labels are {tuple(labels.shape)}, expected (B, M) with M at least 1")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels are {labels.dtype}, expected integers")
        step = self.step if step is None else step
        if self.training:
            self.step = step + 1
        return collect_labels(
            labels.long(),
            num_classes=self.num_classes,
            labels_per_sample=self.labels_per_sample,
            shared=self.sampling == "shared",
            sample_rate=self.sample_rate,
            seed=self.seed,
            step=step,
            group=self.process_group,
        )

    @property
    def last_metrics(self) -> dict[str, Tensor]:
        """Of the last call, detached scalars: `loss` (global), and of this process's shard of the centers

        `positive_cosine`, `negative_cosine`: means over its (sample, center) pairs;
        `filtered_share`: of its negatives, above `filter_threshold`;
        `positives_over_sampled`: distinct positive centers over sampled ones;
        `grad_norm`: of its rows of `centers.grad`, once there is one.

        Nothing is communicated or copied to the host here; `reduce_metrics` gives the same over all
        processes.
        """
        if self._sums is None:
            return {}
        return self._named(self._sums, self._squared_grad())

    def reduce_metrics(self) -> dict[str, Tensor]:
        """`last_metrics` over all shards, by one sum; `grad_norm` is that of the whole matrix.

        Every process calls this, after the backward pass if `grad_norm` is wanted.
        """
        if self._sums is None:
            return {}
        squared = self._squared_grad()
        sums = self._sums if squared is None else torch.cat([self._sums, squared.to(self._sums.dtype)[None]])
        sums = all_reduce_(sums.clone(), self.process_group)
        return self._named(sums[:7], None if squared is None else sums[7])

    def grad_norm(self) -> Tensor:
        """The norm () of the gradient of all centers, over all processes (every process calls this).

        What clipping needs: the norm of a shard would make the result depend on the number of processes.
        """
        squared = self._squared_grad()
        if squared is None:
            raise ValueError("centers have no gradient yet: call backward() first")
        return all_reduce_(squared.clone(), self.process_group).sqrt()

    def _squared_grad(self) -> Tensor | None:
        grad = self.centers.grad
        if grad is None:
            return None
        values = grad.coalesce().values() if grad.is_sparse else grad
        return torch.linalg.vector_norm(values).square()

    def _named(self, sums: Tensor, squared_grad: Tensor | None) -> dict[str, Tensor]:
        assert self._loss is not None
        positive_sum, positives, negative_sum, negatives, filtered, distinct, sampled = sums
        named = {
            "loss": self._loss,
            "positive_cosine": positive_sum / positives.clamp(min=1),
            "negative_cosine": negative_sum / negatives.clamp(min=1),
            "filtered_share": filtered / negatives.clamp(min=1),
            "positives_over_sampled": distinct / sampled.clamp(min=1),
        }
        if squared_grad is not None:
            named["grad_norm"] = squared_grad.sqrt()
        return named

    @torch.no_grad()
    def set_centers(self, centroids: Tensor) -> None:
        """Take the own rows of (C, D) centroids, k-means' for instance; every process passes all of them.

        Raises ValueError for another shape, or for values that are not finite.
        """
        expected = (self.num_classes, self.embedding_dim)
        if tuple(centroids.shape) != expected:
            raise ValueError(f"centroids are {tuple(centroids.shape)}, expected {expected}")
        self._take(centroids[self.class_range.start : self.class_range.stop], "centroids")

    @torch.no_grad()
    def load_centers(self, path: str | PathLike) -> None:
        """Read the own rows of a `centers.safetensors`, whatever number of processes wrote it.

        Raises ValueError for a file of other centers, OSError for one that is not there.
        """
        rows = load_rows(path, self.class_range, (self.num_classes, self.embedding_dim))
        self._take(rows, str(path))

    def _take(self, rows: Tensor, source: str) -> None:
        if not bool(torch.isfinite(rows).all()):
            bad = int((~torch.isfinite(rows)).any(1).nonzero()[0]) + self.class_range.start
            raise ValueError(f"{source}: center {bad} has values that are not finite")
        self.centers.copy_(rows)

    def save_centers(self, path: str | PathLike) -> None:
        """Write all centers (C, D) to one safetensors file; every process calls this, the first writes."""
        save_rows(path, self.centers, self.num_classes, self.process_group)

    def extra_repr(self) -> str:
        rows = self.class_range
        own = f"rows {rows.start}..{rows.stop}" if size_of(self.process_group) > 1 else "all rows"
        return (
            f"{self.num_classes} classes, {self.embedding_dim} dimensions, {own}, {self.form}, "
            f"{self.sampling}, sample_rate={self.sample_rate}, scale={self.scale}, margin={self.margin}"
        )


def draw_together(
    losses: Mapping[str, ClusterDiscriminationLoss], labels: Mapping[str, Tensor], *, step: int | None = None
) -> dict[str, Draw]:
    """`ClusterDiscriminationLoss.draw` for several losses of a step, with one wait for the device in all.

    Every process passes the same losses in the same order. The result of a name goes where its labels would:
    `losses[name](embeddings, draws[name])`.

    Args:
        losses: name -> loss; the same on every process, in the same order.
        labels: name -> (b, M) integers, -100 for none.
        step: key of the draws; None is each loss's own `step`.
    """
    collected = {name: loss._collect_labels(labels[name], step) for name, loss in losses.items()}
    facts = torch.cat([found.facts for found in collected.values()]).tolist()
    draws = {}
    for name, loss in losses.items():
        found = collected[name]
        own, facts = facts[: found.facts.numel()], facts[found.facts.numel() :]
        draws[name] = finalise(found, own, num_classes=loss.num_classes, group=loss.process_group)
    return draws


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, expected {expected}")
