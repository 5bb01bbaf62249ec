"""The cluster objective as one autograd function over sharded centers.

The gradient of the loss with respect to the logits needs nothing that comes after the loss, so the forward
pass leaves it in the buffer of the logits: one (N, S) matrix a selection, from the product to the end of the
backward pass, which is then two products. Collectives of a step: one gather of embeddings, a maximum (softmax
only) and a sum of per-sample numbers, and in the backward pass a sum of the embeddings' gradients.

Shapes: b local rows, N rows over all processes with padding, D dimensions, S sampled centers of this shard, L
labels scored against a selection, K label columns, G selections (G = 1 with L = K, or G = K with L = 1).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .cluster_sampling import Draw, Selection
from .collectives import MAX, Group, all_gather, all_reduce_, rank_in, size_of

EPS = 1e-12  # of the normalisation, as in F.normalize

# Published code (training/fused_partial_fc_v2_multi_res.py) takes the log of probabilities raised to at least
# 1e-30, so no term of the value exceeds this, while the gradient goes on; and it divides the value by the
# number of labels, but not the gradient. Recorded tensors show both.
CAP = -math.log(1e-30)


@dataclass(frozen=True)
class Scoring:
    """How a cosine becomes a logit, and a row of logits a loss."""

    scale: float
    margin: float
    filter_threshold: float
    sigmoid: bool
    as_published: bool  # the value and the gradient that published code reports, see CAP
    sparse_grad: bool


class ClusterDiscrimination(torch.autograd.Function):
    """(normalised embeddings (b, D), centers (c, D)) -> the global loss () and sums for the metrics (5,)."""

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, centers: Tensor, draw: Draw, scoring: Scoring, group: Group
    ) -> tuple[Tensor, Tensor]:
        """The loss, and what its backward pass needs.

        Args:
            ctx: of autograd.
            embeddings: (b, D), normalised.
            centers: (c, D), this process's.
            draw: labels and sampled classes of the step.
            scoring: how a cosine becomes a logit, and logits a loss.
            group: the processes that own the classes.

        Returns:
            the global loss () and sums for the metrics (5,).
        """
        embeddings_ND = all_gather(embeddings, draw.rows_per_process, group)
        summed_NK, weights_NK = _weights(draw.labels, embeddings.dtype)
        scored = [_Logits(embeddings_ND, centers, selection, scoring) for selection in draw.selections]

        shared = len(scored) == 1
        target_NK = torch.cat([logits.target for logits in scored], dim=1)
        if scoring.sigmoid:
            top_GN = None
            sums_GN = torch.stack([logits.softplus_() for logits in scored])
        else:
            top_GN = all_reduce_(torch.stack([logits.top() for logits in scored]), group, MAX)
            sums_GN = torch.stack([logits.exp_(top) for logits, top in zip(scored, top_GN, strict=True)])
        # Every target lives on one shard and every negative too: one sum completes both.
        complete = all_reduce_(torch.cat([target_NK, sums_GN.T], dim=1), group)
        target_NK, sums_NG = complete.split([target_NK.shape[1], len(scored)], dim=1)
        target_NK = scoring.scale * (target_NK - scoring.margin)

        counted_NK = summed_NK if scoring.as_published else weights_NK
        if top_GN is None:
            losses_NK = sums_NG - F.logsigmoid(target_NK)
            push_NK = counted_NK
            pull_NK = -counted_NK * torch.sigmoid(-target_NK)
        else:
            total_NK = torch.logaddexp(target_NK, top_GN.T + sums_NG.log())
            losses_NK = total_NK - target_NK
            # Where there is no negative at all, `top` is a floor that may be above the total.
            push_NK = counted_NK * (top_GN.T - total_NK).clamp_(max=0).exp_()
            pull_NK = counted_NK * torch.expm1(target_NK - total_NK)
        if scoring.as_published:
            losses_NK = losses_NK.clamp(max=CAP)
        loss = (weights_NK * losses_NK).sum()
        push_NG = push_NK.sum(1, keepdim=True) if shared else push_NK
        pull = [pull_NK] if shared else list(pull_NK.split(1, dim=1))

        sums = torch.stack([logits.sums for logits in scored]).sum(0)
        ctx.mark_non_differentiable(sums)
        ctx.draw, ctx.scale, ctx.sparse, ctx.group = draw, scoring.scale, scoring.sparse_grad, group
        ctx.shape, ctx.dtype = centers.shape, centers.dtype
        if any(ctx.needs_input_grad[:2]):
            for logits, push_N1, pull_NL in zip(scored, push_NG.split(1, dim=1), pull, strict=True):
                logits.to_gradient_(push_N1, pull_NL)
            parts = [part for logits in scored for part in (logits.values, logits.directions, logits.inverse)]
            ctx.save_for_backward(embeddings_ND, *parts)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        embeddings_ND, *parts = ctx.saved_tensors
        with torch.autocast(embeddings_ND.device.type, enabled=False):
            factor = ctx.scale * grad_loss
            grad_embeddings = torch.zeros_like(embeddings_ND)
            collected = _CenterGradient(ctx.shape, ctx.dtype, ctx.draw, ctx.sparse)
            for i, selection in enumerate(ctx.draw.selections):
                values_NS, directions_SD, inverse_S1 = parts[3 * i : 3 * i + 3]
                grad_embeddings.addmm_(values_NS, directions_SD)
                if ctx.needs_input_grad[1]:
                    rows_SD = values_NS.T @ (embeddings_ND * factor)
                    # Through the normalisation: only what is perpendicular to a center moves it.
                    radial = (rows_SD * directions_SD).sum(1, keepdim=True)
                    rows_SD.addcmul_(directions_SD, radial, value=-1).mul_(inverse_S1)
                    collected.add(selection, rows_SD)
            all_reduce_(grad_embeddings.mul_(factor), ctx.group)
            first = rank_in(ctx.group) * ctx.draw.rows_per_process
            own = grad_embeddings[first : first + ctx.draw.local_rows]
            # DDP and FSDP divide by the number of processes; the loss is the global mean already.
            own = own * size_of(ctx.group)
        return own, collected.result() if ctx.needs_input_grad[1] else None, None, None, None


def _weights(labels_NK: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What each (sample, label) counts for: summed, and averaged, over a sample's labels.

    Both are means over the samples that have a label.
    """
    present = (labels_NK >= 0).to(dtype)
    count = present.sum(1, keepdim=True)
    present /= (count > 0).sum().clamp(min=1)
    return present, present / count.clamp(min=1)


class _Logits:
    """The scores of one selection, in one buffer `values` (N, S): cosine, then logit, then gradient."""

    def __init__(self, embeddings_ND: Tensor, centers: Tensor, selection: Selection, scoring: Scoring):
        rows_SD = centers if selection.rows is None else centers.index_select(0, selection.rows)
        rows_SD = rows_SD.to(embeddings_ND.dtype)
        self.inverse = torch.linalg.vector_norm(rows_SD, dim=1, keepdim=True).clamp_(min=EPS).reciprocal_()
        # index_select and the conversion give a copy of our own; a whole shard of the same type is the
        # parameter.
        in_place = rows_SD.data_ptr() != centers.data_ptr()
        self.directions = rows_SD.mul_(self.inverse) if in_place else rows_SD * self.inverse
        self.values = embeddings_ND @ self.directions.T
        self.scale = scoring.scale

        local = selection.labels - selection.first_class
        self.here = (local >= 0) & (local < selection.place.shape[0]) & (selection.labels >= 0)
        self.empty = self.values.shape[1] == 0
        labelled = (selection.labels >= 0).any(1)
        if self.empty:
            self.target = embeddings_ND.new_zeros(selection.labels.shape)
        else:
            self.column = selection.place[torch.where(self.here, local, 0)].masked_fill_(~self.here, 0)
            self.target = self.values.gather(1, self.column).masked_fill_(~self.here, 0)
            # A sample's own labels leave its negatives; adding 0 elsewhere changes nothing.
            self._add_at_targets(torch.full_like(self.target, -torch.inf))
        self.filtered = None
        if scoring.filter_threshold > 0:
            self.filtered = self.values > scoring.filter_threshold
            self.values.masked_fill_(self.filtered, 0)
        self.sums = self._metrics(embeddings_ND, labelled)
        self.values.mul_(scoring.scale)

    def _add_at_targets(self, values_NL: Tensor) -> None:
        self.values.scatter_add_(1, self.column, values_NL.masked_fill(~self.here, 0))

    def _metrics(self, embeddings_ND: Tensor, labelled_N: Tensor) -> Tensor:
        """Sums over this shard's pairs: positive cosines, their number; the same of negatives; filtered."""
        rows_N = labelled_N.to(embeddings_ND.dtype)
        positive_sum, positives = self.target.sum(), self.here.sum()
        # The sum of all cosines is the product of the sums.
        all_cosines = (rows_N @ embeddings_ND) @ self.directions.sum(0)
        negatives = rows_N.sum() * self.values.shape[1] - positives
        filtered = (
            rows_N.new_zeros(()) if self.filtered is None else self.filtered.sum(1).to(rows_N.dtype) @ rows_N
        )
        return torch.stack([positive_sum, positives, all_cosines - positive_sum, negatives, filtered])

    def top(self) -> Tensor:
        """(N,) the largest logit of a negative, at least -scale, which none is below."""
        if self.empty:
            return self.target.new_full((self.values.shape[0],), -self.scale)
        return self.values.amax(1).clamp_(min=-self.scale)

    def exp_(self, top_N: Tensor) -> Tensor:
        """values -> exp(values - top); returns their sums (N,)."""
        return self.values.sub_(top_N[:, None]).exp_().sum(1)

    def softplus_(self) -> Tensor:
        """values -> sigmoid(values); returns the sums (N,) of log(1 + exp(values))."""
        sums = F.logsigmoid(-self.values).sum(1).neg_()
        self.values.sigmoid_()
        return sums

    def to_gradient_(self, push_N1: Tensor, pull_NL: Tensor) -> None:
        """values -> d loss / d logit."""
        if self.empty:
            return
        self.values.mul_(push_N1)
        if self.filtered is not None:
            self.values.masked_fill_(self.filtered, 0)
            self.filtered = None
        self._add_at_targets(pull_NL)


class _CenterGradient:
    """Gathers the gradients of sampled rows into one of the shard's shape, dense or row-sparse."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, draw: Draw, sparse: bool):
        self.shape, self.dtype, self.draw, self.sparse = shape, dtype, draw, sparse
        self.rows: Tensor | None = None

    def add(self, selection: Selection, rows_SD: Tensor) -> None:
        rows_SD = rows_SD.to(self.dtype)
        union = self.draw.union
        if union is None and (self.sparse or selection.rows is None):
            self.rows = rows_SD
            return
        if self.rows is None:
            count = union[0].shape[0] if self.sparse and union is not None else self.shape[0]
            self.rows = rows_SD.new_zeros(count, self.shape[1])
        index = selection.rows
        if index is None:
            index = torch.arange(self.shape[0], device=rows_SD.device)
        if self.sparse and union is not None:
            index = union[1][index]
        if union is None:
            self.rows.index_copy_(0, index, rows_SD)
        else:
            # The rows of one selection are distinct, so this adds each once, and faster than index_add_ does.
            self.rows.index_copy_(0, index, rows_SD.add_(self.rows.index_select(0, index)))

    def result(self) -> Tensor:
        assert self.rows is not None
        if not self.sparse:
            return self.rows
        union = self.draw.union
        index = union[0] if union is not None else self.draw.selections[0].rows
        if index is None:
            index = torch.arange(self.shape[0], device=self.rows.device)
        return torch.sparse_coo_tensor(
            index[None], self.rows, self.shape, is_coalesced=True, check_invariants=False
        )
