"""`onevision eval generation --samples DIR|npz --reference DIR|npz`: a set of generated pictures against
another.

onevision eval generation --samples samples.npz --reference VIRTUAL_imagenet256_labeled.npz
onevision eval generation --samples out/generated/samples.npz --reference drawn/ --size 64 --metrics gfid,is

gFID, Inception score, precision and recall. A reference .npz with `mu` and `sigma` is compared by those.
"""

from typing import Annotated

from typer import Option as Opt

from .options import BatchSize, Device, Inception, Metrics, PictureRun, at_least_one, words
from .printing import print_figures

_PICTURES = "pictures, or an .npz of uint8 (count, H, W, 3)"


def run(
    samples: Annotated[str, Opt(metavar="DIR|npz", help=_PICTURES)],
    reference: Annotated[str, Opt(metavar="DIR|npz", help=_PICTURES)],
    how: PictureRun,
    size: Annotated[
        int | None, Opt(metavar="N", help="bring the middle square of every picture to so many pixels")
    ] = None,
    metrics: Metrics = "gfid,is,precision,recall",
    inception: Inception = None,
    batch_size: BatchSize = 64,
    device: Device = None,
) -> None:
    at_least_one(limit=how.limit, batch_size=batch_size, workers=how.workers, size=size)
    from onevision_hf.eval.unified.backbones import load_inception
    from onevision_hf.eval.unified.generation import METRICS, measure_generation
    from onevision_hf.eval.unified.pictures import open_pictures
    from onevision_hf.eval.unified.reconstruction import check_metrics
    from onevision_hf.eval.unified.reference_tables import notes, published_json, published_lines
    from onevision_hf.jobs.devices import pick_device
    from onevision_hf.jobs.progress import progress

    chosen = check_metrics(words(metrics), METRICS)
    network = load_inception(inception, chosen[0]).to(pick_device(device))
    ours, theirs = open_pictures(samples, how.limit), open_pictures(reference, how.limit)
    with progress("looked at", len(ours) + len(theirs), silent=how.as_json) as step:
        found = measure_generation(
            ours,
            theirs,
            network,
            metrics=chosen,
            size=size,
            batch_size=batch_size,
            workers=how.workers,
            step=step,
        )
    report = {
        "samples_from": samples,
        "reference_from": reference,
        **found,
        "published": published_json("generation"),
        "notes": list(notes("generation")),
    }
    lines = [
        "  ".join(f"{name} {value:.4g}" for name, value in found["figures"].items()),
        f"{found['samples']} samples against {found['reference_statistics']} ({reference}); published "
        "figures are of 50,000 samples",
        *published_lines("generation"),
    ]
    print_figures(report, lines, how.out, how.as_json)
