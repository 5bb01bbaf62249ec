"""LPIPS as a loss: the `lpips` package over VGG-16, whose weights are read from a file and never fetched.

Its linear heads come with the package; the backbone does not (528 MB, torchvision's ImageNet weights).
"""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE = "vgg16-397923af.pth"  # as torchvision and torch.hub name it
URL = f"https://download.pytorch.org/models/{FILE}"


class MissingLPIPSError(OSError):
    """LPIPS has a weight and cannot be computed: the message names what to install or to fetch."""


def load_lpips(backbone: str | PathLike | None = None) -> nn.Module:
    """LPIPS (Zhang et al., arXiv 1801.03924, version 0.1, VGG-16), frozen: images (B, 3, H, W) in [-1, 1],
    twice -> (B, 1, 1, 1).

    Args:
        backbone: a file of torchvision's VGG-16 weights; left out, torch.hub's folder is looked in.

    Raises:
        MissingLPIPSError: the package or the weights are not there, or the file holds something else.
    """
    path = Path(backbone) if backbone is not None else Path(torch.hub.get_dir()) / "checkpoints" / FILE
    remedy = (
        f"fetch {URL} and give its path (unified.lpips_weights in a training, load_lpips(path) in code), "
        f"put it into {Path(torch.hub.get_dir()) / 'checkpoints'}, give a module with model.set_lpips(...), "
        "or train with lpips_weight 0, as stage 1 does"
    )
    try:
        from lpips import LPIPS
    except ImportError as error:
        raise MissingLPIPSError(
            "lpips_weight is not 0 and the package lpips is not installed: "
            'pip install ".[openvision]" in a clone'
        ) from error
    if not path.is_file():
        raise MissingLPIPSError(f"lpips_weight is not 0 and {path} does not exist: {remedy}")
    module = LPIPS(net="vgg", pnet_rand=True, verbose=False)  # linear heads of the package, random backbone
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        load_backbone(module.net, stored)
    except Exception as error:  # a pickle of anything may raise anything
        raise MissingLPIPSError(
            f"{path} holds no weights of torchvision's VGG-16 ({error}): {remedy}"
        ) from error
    return module.eval().requires_grad_(False)


def load_backbone(net: nn.Module, stored: dict[str, Any]) -> None:
    """Fill the slices of `features` that LPIPS keeps.

    Raises KeyError or RuntimeError where they do not fit.
    """
    wanted = net.state_dict()
    net.load_state_dict({name: stored["features." + name.partition(".")[2]] for name in wanted})


def perceptual_distance(module: nn.Module, prediction: Tensor, target: Tensor) -> Tensor:
    """The perceptual distance of each image; the frozen module follows its input's device.

    Args:
        module: LPIPS.
        prediction: (B, 3, H, W) in [-1, 1].
        target: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,) float32.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return module.to(prediction.device)(prediction.float(), target.float()).flatten()
