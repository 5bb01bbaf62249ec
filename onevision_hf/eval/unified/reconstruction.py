"""How well a unified model rebuilds pictures, compared with its own VAE, which it cannot exceed by much.

    measure_reconstruction(open_pictures("val/"), open_model("M"), metrics=("psnr", "ssim"))

Each picture is resized and cropped as the model's processor does it and rounded to bytes: that is the
original. The reconstruction is rounded to bytes too, as a file of it would be.

| figure | how |
|---|---|
| `psnr` | dB, of each picture, then the mean (torchmetrics; not the PSNR of the pooled error) |
| `ssim` | windows of 11 Gaussian pixels, deviation 1.5 (torchmetrics), of each picture, then the mean |
| `lpips` | version 0.1 over AlexNet, or VGG if given (lpips), of each picture, then the mean |
| `rfid` | Fréchet distance between **these originals** and their reconstructions (torch-fidelity) |

rFID depends on its reference set. Here it is the pictures themselves, cropped alike; against the ImageNet
statistics that gFID uses, the same reconstructions get 1.8 to 1.9 instead of about 0.6 (bytetriper/RAE, issue
11).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...pretraining.perceptual import perceptual_distance
from .backbones import needs
from .distances import Looked, frechet_distance, gaussian, joined, look
from .models import OpenedModel
from .pictures import Pictures, none_left

METRICS = ("psnr", "ssim", "lpips", "rfid")
SHOWN = 12  # pictures of the grid


@dataclass
class Reconstruction:
    """`figures`: of `model` and `vae`, each metric's mean. `per_picture`: a record for each, with its key.
    `rows`: of the grid, originals, VAE, model, (at most SHOWN, 3, S, S) uint8.
    """

    figures: dict[str, dict[str, float]]
    per_picture: list[dict[str, Any]]
    rows: dict[str, Tensor]
    pictures: int
    rejected: list[dict[str, str]]
    size: int


@dataclass
class _Kept:
    """What one way of rebuilding has given so far."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    looked: list[Looked] = field(default_factory=list)
    shown: list[Tensor] = field(default_factory=list)


def check_metrics(metrics: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError for an unknown metric or none."""
    unknown = [name for name in metrics if name not in known]
    if unknown or not metrics:
        raise ValueError(f"metrics are {', '.join(known)}; found {', '.join(unknown) or 'none'}")
    return tuple(name for name in known if name in metrics)


def measure_reconstruction(
    pictures: Pictures,
    opened: OpenedModel,
    *,
    metrics: Sequence[str] = METRICS,
    lpips: nn.Module | None = None,
    inception: nn.Module | None = None,
    with_vae: bool = True,
    batch_size: int = 32,
    workers: int = 4,
    step: Callable[[int], None] = lambda count: None,
) -> Reconstruction:
    """Rebuild every picture and compare.

    Args:
        pictures: to rebuild.
        opened: the model.
        metrics: some of `METRICS`.
        lpips: images in [-1, 1], twice -> (B, 1, 1, 1); needed for the metric `lpips`.
        inception: pictures uint8 -> features, logits; needed for `rfid`.
        with_vae: measure the VAE alone too, on the same latents.
        batch_size: pictures at once.
        workers: threads that decode.
        step: called with the number of pictures that are done.

    Raises:
        ValueError: an unknown metric, one without its network, nothing that can be read, one picture for
        rfid. MissingVAEError: there is no VAE.
    """
    metrics = check_metrics(metrics, METRICS)
    for name, network in (("lpips", lpips), ("rfid", inception)):
        if name in metrics and network is None:
            argument = "lpips" if name == "lpips" else "inception"
            raise ValueError(f"the metric {name} needs its network: pass {argument}=")
    needs("torchmetrics", "psnr")
    lpips = None if lpips is None else lpips.to(opened.device)
    inception = None if inception is None else inception.to(opened.device)
    kept = {name: _Kept() for name in (("model", "vae") if with_vae else ("model",))}
    originals = _Kept()
    keys: list[str] = []
    # Spread over the list, which may go class by class.
    wanted = {place * len(pictures) // SHOWN for place in range(SHOWN)}
    for batch in pictures.batches(batch_size, workers, step):
        pixels = opened.pixels([picture for _, picture in batch])
        original = to_bytes(pixels)
        shown = [place for place, (number, _) in enumerate(batch) if number in wanted]
        originals.shown.append(original[shown].cpu())
        if inception is not None and "rfid" in metrics:
            originals.looked.append(look(inception, original))
        for name, rebuilt in _rebuilt(opened, pixels, with_vae):
            own = kept[name]
            found = to_bytes(rebuilt)
            own.shown.append(found[shown].cpu())
            for metric, values in compare(found, original, metrics, lpips).items():
                own.values.setdefault(metric, []).append(values)
            if inception is not None and "rfid" in metrics:
                own.looked.append(look(inception, found))
        keys += [pictures.keys[number] for number, _ in batch]
    if not keys:
        raise none_left(pictures)
    figures: dict[str, dict[str, float]] = {}
    records: list[dict[str, Any]] = [{"key": key} for key in keys]
    for name, own in kept.items():
        figures[name] = {}
        for metric, parts in own.values.items():
            values = torch.cat(parts)
            figures[name][metric] = values.mean().item()
            for record, value in zip(records, values.tolist(), strict=True):
                record.setdefault(name, {})[metric] = value
        if own.looked:
            reference = gaussian(joined(originals.looked).features, pictures.name)
            found_there = gaussian(joined(own.looked).features, "its reconstructions")
            figures[name]["rfid"] = frechet_distance(reference, found_there)
    rows = {"original": originals} | {name: kept[name] for name in ("vae", "model") if name in kept}
    return Reconstruction(
        figures=figures,
        per_picture=records,
        rows={name: torch.cat(own.shown) for name, own in rows.items()},
        pictures=len(keys),
        rejected=pictures.rejected,
        size=opened.size,
    )


@torch.no_grad()
def _rebuilt(opened: OpenedModel, pixels: Tensor, with_vae: bool) -> Iterator[tuple[str, Tensor]]:
    model = opened.model
    yield "model", model.reconstruct(pixels)
    if with_vae:
        yield "vae", model.decode_latents(model.encode_pixels(pixels))


def to_bytes(pixels: Tensor) -> Tensor:
    """[-1, 1] -> uint8."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def compare(
    found: Tensor, original: Tensor, metrics: Sequence[str], lpips: nn.Module | None
) -> dict[str, Tensor]:
    """Of each of the metrics that are of one picture, (B,) on the CPU. PSNR of equal pictures is infinite.

    Raises ValueError for sides below 11 pixels with SSIM.

    Args:
        found: (B, 3, H, W) uint8.
        original: (B, 3, H, W) uint8.
        metrics: some of `METRICS`.
        lpips: see `measure_reconstruction`.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    one, other = (pictures.float() / 255 for pictures in (found, original))
    values = {}
    if "psnr" in metrics:
        values["psnr"] = peak_signal_noise_ratio(
            one, other, data_range=1.0, dim=(1, 2, 3), reduction="none"
        ).reshape(-1)
    if "ssim" in metrics:
        if min(one.shape[-2:]) < 11:
            raise ValueError(f"SSIM looks at windows of 11 pixels, the pictures have {tuple(one.shape[-2:])}")
        ssim: Any = structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
        values["ssim"] = ssim.reshape(-1)
    if "lpips" in metrics:
        assert lpips is not None
        with torch.no_grad():
            values["lpips"] = perceptual_distance(lpips, 2 * one - 1, 2 * other - 1)
    return {name: found.float().cpu() for name, found in values.items()}


def grid_picture(rows: dict[str, Tensor]) -> Image.Image:
    """Rows of pictures (count, 3, S, S) uint8, one below the other, with their names on the left."""
    from PIL import ImageDraw, ImageFont

    first = next(iter(rows.values()))
    size = first.shape[-1]
    zoom = max(1, math.ceil(96 / size))
    font = ImageFont.load_default(13)
    left = 74
    sheet = Image.new("RGB", (left + len(first) * size * zoom, len(rows) * size * zoom), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, pictures) in enumerate(rows.items()):
        top = number * size * zoom
        pen.text((4, top + size * zoom // 2 - 8), name, "black", font)
        for column, picture in enumerate(pictures):
            shown = Image.fromarray(picture.permute(1, 2, 0).numpy())
            shown = shown.resize((size * zoom, size * zoom), Image.Resampling.NEAREST)
            sheet.paste(shown, (left + column * size * zoom, top))
    return sheet
