"""AdamW in groups, learning rates as a function of the step, one norm over everything, an average of
weights.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..objectives import RowSparseAdamW
from ..objectives.muon import AdamW, MuonAdamW, is_layer_matrix
from .config import OptimConfig

_NO_DECAY = ("norm", "probe", "position", "cls_token", "query_tokens")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: not on vectors (norms, biases), probes and positions."""
    return parameter.ndim > 1 and not any(part in name.lower() for part in _NO_DECAY)


def learning_rate_factor(optim: OptimConfig, step: int, total: int) -> float:
    """The multiple of `learning_rate` with which an optimizer step is taken.

    Warm-up rises linearly and reaches 1 at step `warmup_steps`; the schedule then falls to `final_lr_scale`
    at the end. A function of the step alone, so a resume cannot bend it.

    Args:
        optim: the schedule.
        step: number of the step, from 0.
        total: steps of the run.
    """
    warmup = optim.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    falling = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "poly": (1 - progress) ** optim.power,
    }[optim.lr_scheduler_type]
    return optim.final_lr_scale + (1 - optim.final_lr_scale) * falling


class Optimizers:
    """AdamW of the model (two groups; with `muon_lr` Muon for the layers' matrices) and of each sharded
    matrix.

    The sharded ones are apart because their gradients are complete on the process that owns the rows; those
    with row-sparse gradients take `RowSparseAdamW`.

    Args:
        model: whose parameters with a gradient are trained.
        sharded: modules by name, as `Task.sharded`.
        optim: rates, decay, clipping.
        lr_scales: a module's name, anywhere in a parameter's -> the multiple of `learning_rate` for it
            (default 1).
    """

    def __init__(
        self,
        model: nn.Module,
        sharded: Mapping[str, Any],
        optim: OptimConfig,
        lr_scales: Mapping[str, float] | None = None,
    ):
        self.settings = optim
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        # (by Muon, decays, scale) -> parameters; Muon's matrices all decay.
        grouped: dict[tuple[bool, bool, float], list[Tensor]] = defaultdict(list)
        for n, p in named:
            muon = bool(optim.muon_lr) and is_layer_matrix(n, p)
            grouped[muon, muon or decays(n, p), scale_under(n, lr_scales or {})].append(p)
        groups: list[dict[str, Any]] = [
            {
                "params": grouped[muon, decaying, scale],
                "weight_decay": optim.weight_decay if decaying else 0.0,
                "muon": muon,
                "scale": scale,
            }
            for muon, decaying, scale in sorted(grouped, key=lambda g: (g[0], not g[1], g[2]))
        ]
        common: dict[str, Any] = {"betas": tuple(optim.betas), "eps": optim.eps}
        kind = MuonAdamW if any(group["muon"] for group in groups) else AdamW
        self.model = kind(groups, lr=optim.learning_rate, **common)
        self.names = {id(p): n for n, p in named}
        self.modules = dict(sharded)
        common |= {"lr": optim.learning_rate, "weight_decay": optim.centers_weight_decay}
        self.sharded = {
            name: (RowSparseAdamW if module.sparse_grad else AdamW)([module.centers], **common)
            for name, module in sharded.items()
        }

    def zero_grad(self) -> None:
        for optimizer in (self.model, *self.sharded.values()):
            optimizer.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale all gradients so that their global norm is at most `max_grad_norm`; gives the old one, ()."""
        gradients = [
            p.grad for group in self.model.param_groups for p in group["params"] if p.grad is not None
        ]
        squares = [global_norm(gradients).square()]
        squares += [module.grad_norm().square() for module in self.modules.values()]
        norm = torch.stack([s.to(squares[0].device, torch.float32) for s in squares]).sum().sqrt()
        if self.settings.max_grad_norm:
            factor = (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
            for module in self.modules.values():
                module.centers.grad.mul_(factor)
        return norm

    def step(self, factor: float) -> None:
        """One update with `factor` times the configured learning rates."""
        settings = self.settings
        for group in self.model.param_groups:
            highest = settings.muon_lr if group["muon"] else settings.learning_rate
            group["lr"] = highest * group["scale"] * factor
        for optimizer in self.sharded.values():
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * settings.centers_lr_scale * factor
        for optimizer in (self.model, *self.sharded.values()):
            optimizer.step()


def scale_under(name: str, scales: Mapping[str, float]) -> float:
    """The scale of the module whose name is in a parameter's, or 1."""
    return next((scale for part, scale in scales.items() if f".{part}." in f".{name}"), 1.0)


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(list(gradients))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class Average:
    """An exponential moving average of the model's weights, in float32."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.source = dict(model.named_parameters())
        self.weights = {name: p.detach().clone() for name, p in self.source.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(
            list(self.weights.values()), [p.detach() for p in self.source.values()], 1 - self.decay
        )


def distribute(model: nn.Module, optim: OptimConfig, device: torch.device) -> nn.Module:
    """The model as the processes hold it: alone as it is, replicated by DDP, or cut by FSDP2.

    FSDP2 cuts each transformer layer and the rest; weights stay float32, the computation follows `precision`.

    Args:
        model: whole, on `device`.
        optim: `parallel`, `precision`, `compile`.
        device: of this process.
    """
    if optim.compile:
        model.compile(dynamic=False)  # in place: no other names in checkpoints
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    if optim.parallel == "ddp":
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    low = torch.bfloat16 if optim.precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for module in list(model.modules()):
        if isinstance(module, GradientCheckpointingLayer):  # transformers' mark of a repeated block
            fully_shard(module, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    if device.type == "cpu":  # gloo of torch 2.8 takes the sum where the mean is asked for
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    return model
