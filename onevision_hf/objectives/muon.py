"""Muon for the matrices of the layers, AdamW for all else, as one optimizer.

The momentum of a matrix is replaced by the orthogonal matrix nearest to it, so all of its directions learn at
one rate (Keller Jordan et al., https://kellerjordan.github.io/posts/muon, 2024). A small encoder learns what
depends on where and when, a direction say, in a fraction of AdamW's steps.
"""

import collections
from typing import Any

import torch
from torch import Tensor

# Newton-Schulz of the fifth order: five steps bring singular values from (0, 1] to between 0.7 and 1.2.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM = 0.95


def is_layer_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for a parameter: the matrices of repeated layers, not embeddings, heads and vectors."""
    return parameter.ndim == 2 and ".layers." in f".{name}"


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of matrices U S V^T, (..., rows, columns) float32."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class AdamW(torch.optim.AdamW):
    """torch's, whose state can be made before the first step, as a checkpoint is read into it."""

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.tensor(0.0), **moments}


class MuonAdamW(AdamW):
    """AdamW, but for the groups with `muon` true. Those keep one moment, `exp_avg`."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any):
        super().__init__([{"muon": False, **group} for group in groups], **settings)
        self.matrices = {id(p) for group in self.param_groups if group["muon"] for p in group["params"]}

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        if id(parameter) in self.matrices:
            return {"exp_avg": torch.zeros_like(parameter)}
        return super().empty_state(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                shapes = collections.defaultdict(list)
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        shapes[parameter.shape].append(parameter)
                for parameters in shapes.values():
                    self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, whose products are computed together."""
        momenta = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state.update(self.empty_state(parameter))
            momenta.append(gradient.lerp(state["exp_avg"].lerp_(gradient, 1 - MOMENTUM), MOMENTUM))
        rows, columns = parameters[0].shape
        # The rate may be a tensor, which a recorded CUDA graph reads anew in each step.
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, orthogonal(torch.stack(momenta)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update * rate)
