"""The networks that metrics look through, from files: Inception for Fréchet distances, VGG or AlexNet for
LPIPS.

Nothing is downloaded. Their code comes with torch-fidelity and lpips, their weights do not.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...pretraining.perceptual import load_backbone

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
LPIPS_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # torchvision's names
FEATURES = ("2048", "logits_unbiased")


class MissingBackboneError(OSError):
    """A metric's network cannot be had: the message names what to install, to fetch, or to leave out."""


def needs(package: str, metric: str) -> Any:
    """The module `package`. Raises MissingBackboneError that says which extra brings it."""
    try:
        return __import__(package)
    except ImportError as error:
        raise MissingBackboneError(
            f'{metric} needs the package {package.replace("_", "-")}: pip install ".[openvision]" in a clone'
        ) from error


def weights_file(given: str | Path | None, name: str, url: str, metric: str, option: str) -> Path:
    """A file of weights that is there: `given`, or `name` in torch.hub's folder.

    Raises MissingBackboneError when there is none.

    Args:
        given: its path, None for torch.hub's.
        name: of the file in torch.hub's folder.
        url: where it is to be had.
        metric: that needs it.
        option: of the command that names it.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    path = Path(given) if given is not None else hub / name
    if not path.is_file():
        raise MissingBackboneError(
            f"{metric} looks through a network whose weights are not here: {path} does not exist. Fetch "
            f"{url} and give its path with {option}, put it into {hub}, or leave {metric} out with --metrics"
        )
    return path


class Inception(nn.Module):
    """Pictures (B, 3, H, W) uint8 -> features (B, 2048) and logits (B, 1008), float32.

    The network of the published Fréchet distances (TensorFlow's Inception of 2015-12-05) as torch-fidelity
    has it, resize to 299 included.
    """

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.extractor(pictures)
        return features.float(), logits.float()


def load_inception(path: str | Path | None = None, metric: str = "rfid") -> Inception:
    """From torch-fidelity's file of weights.

    Raises MissingBackboneError: the package or the weights are not there, or the file holds something else.
    """
    needs("torch_fidelity", metric)
    found = weights_file(path, INCEPTION, INCEPTION_URL, metric, "--inception")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(
            found, map_location="cpu", weights_only=True
        )  # torch-fidelity unpickles whatever it is given
        extractor = FeatureExtractorInceptionV3(
            "inception-v3-compat", list(FEATURES), feature_extractor_weights_path=str(found)
        )
    except Exception as error:  # a pickle of anything may raise anything
        raise MissingBackboneError(
            f"{found} holds no weights of torch-fidelity's Inception "
            f"({' '.join(str(error).split())[:300]}): fetch {INCEPTION_URL}"
        ) from error
    return Inception(extractor)


def load_lpips_metric(net: str = "alex", path: str | Path | None = None) -> nn.Module:
    """LPIPS 0.1 as a metric: images (B, 3, H, W) in [-1, 1], twice -> (B, 1, 1, 1).

    Raises ValueError for another net; MissingBackboneError as above.
    """
    if net not in LPIPS_FILES:
        raise ValueError(f"LPIPS looks through {' or '.join(LPIPS_FILES)}, found {net!r}")
    needs("lpips", "lpips")
    name = LPIPS_FILES[net]
    found = weights_file(
        path, name, f"https://download.pytorch.org/models/{name}", "lpips", "--lpips-weights"
    )
    from lpips import LPIPS

    module = LPIPS(net=net, pnet_rand=True, verbose=False)  # linear heads of the package, random backbone
    try:
        load_backbone(module.net, torch.load(found, map_location="cpu", weights_only=True))
    except Exception as error:
        raise MissingBackboneError(
            f"{found} holds no weights of torchvision's {net} ({' '.join(str(error).split())[:300]})"
        ) from error
    return module.eval().requires_grad_(False)
