"""AdamW for the row-sparse gradients of `ClusterDiscriminationLoss(..., sparse_grad=True)`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowSparseAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that touches only the rows that have a gradient.

    Each row takes the steps that AdamW would take if it saw that row's steps alone: a row that was not
    sampled keeps its value, its moments and its own count of steps, where a dense AdamW goes on moving and
    decaying it. When every row has a gradient in every step the two are the same.

    Args:
        params: float32 (or wider) parameters whose gradients are sparse over the first dimension. lr,
            betas, eps, weight_decay: as in `torch.optim.AdamW`; the decay is applied when a row is
            touched.
        lr: as in `torch.optim.AdamW`.
        betas: as in `torch.optim.AdamW`.
        eps: as in `torch.optim.AdamW`.
        weight_decay: as in `torch.optim.AdamW`; applied when a row is touched.

    State per parameter: `exp_avg` and `exp_avg_sq` like it, `row_steps` (rows,) int32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr {lr}, eps {eps} and weight_decay {weight_decay} must not be negative, "
                f"betas {betas} in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in every optimizer, which would convert the counts of steps to the parameter's type."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["row_steps"] = state["row_steps"].to(torch.int32)

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        steps = torch.zeros(parameter.shape[0], dtype=torch.int32, device=parameter.device)
        return {"row_steps": steps, **moments}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the rows that have a gradient. Raises ValueError for a dense gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not parameter.grad.is_sparse:
                    raise ValueError(
                        f"RowSparseAdamW got a dense gradient of shape {tuple(parameter.grad.shape)}: build "
                        "the loss with sparse_grad=True, or use torch.optim.AdamW"
                    )
                self._update(parameter, parameter.grad.coalesce(), group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(self.empty_state(parameter))
        rows, values = grad.indices()[0], grad.values()
        beta1, beta2 = group["betas"]

        steps = state["row_steps"].index_select(0, rows) + 1
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = (
            state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        )
        state["row_steps"].index_copy_(0, rows, steps)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)

        # Float64: 1 - 0.999 ** 1 loses four digits in float32, as it would not in the scalar that AdamW has.
        count = steps.double().reshape(-1, *[1] * (parameter.ndim - 1))
        correction1, correction2 = 1 - beta1**count, 1 - beta2**count
        size = (group["lr"] / correction1).to(parameter.dtype)
        root = correction2.sqrt_().to(parameter.dtype)
        updated = parameter.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        updated -= size * first / (second.sqrt_().div_(root).add_(group["eps"]))
        parameter.index_copy_(0, rows, updated)
