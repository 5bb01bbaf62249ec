"""`onevision synth clips|images|questions --out DIR --count N`: draw media whose truth is known.

onevision synth clips --out drawn --count 2000 --seed 0 --family direction --preview
onevision synth images --out pictures --count 500 --split train
onevision synth questions --out questions --count 300 --codec hevc --bframes 2

The same command goes on where an interrupted one stopped. A manifest.parquet is written last.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option as Opt

from .groups import stage, stages
from .options import Json

if TYPE_CHECKING:
    from onevision_hf.synthetic import Job

app = stages()

CLIP_FAMILIES = (
    "direction, speed, mover_colour, mover_shape, brief_direction, brief_colour, brief_speed, "
    "nudge_direction, nudge_who, first, count, binding, crossing, orbit, growth, growth_who, appear, "
    "appear_who, drift_direction, word, detail, fine, shape, ground, background"
)
IMAGE_FAMILIES = "object, colour, shape, texture, count, word, ground"
BACKGROUNDS = "static, pan, zoom, shake, flicker, noise"
CODECS = "h264, hevc, hevc10, vp9, av1, mpeg4"
_FAMILY = "ask one question of all, with a folder for each answer: "

Out = Annotated[Path, Opt(metavar="DIR", help="the folder; made if needed")]
Count = Annotated[int, Opt(metavar="N", help="how many")]
Seed = Annotated[int, Opt(metavar="N", help="another seed is another world")]
Size = Annotated[int, Opt(metavar="N", help="pixels a side")]
Workers = Annotated[int | None, Opt("--workers", metavar="N", help="processes (default: one a core)")]
Preview = Annotated[bool, Opt("--preview", help="a contact sheet too: DIR/preview.png")]


@stage(app, "clips with multiple-choice questions and their answers", "questions")
@stage(app, "moving scenes with boxes, masks and velocity")
def clips(
    context: typer.Context,
    out: Out,
    count: Count,
    seed: Seed = 0,
    family: Annotated[str | None, Opt(metavar="NAME", help=_FAMILY + CLIP_FAMILIES)] = None,
    size: Size = 64,
    num_frames: Annotated[int, Opt(metavar="N", help="frames of a clip")] = 64,
    background: Annotated[str | None, Opt(metavar="NAME", help=f"always this: {BACKGROUNDS}")] = None,
    sweeps: Annotated[int, Opt(metavar="N", help="how often a pan or zoom goes its way")] = 1,
    codec: Annotated[str, Opt(metavar="NAME", help=CODECS)] = "h264",
    gop: Annotated[int, Opt(metavar="N", help="frames between keyframes")] = 32,
    bframes: Annotated[int, Opt(metavar="N", help="B-pictures between references")] = 0,
    quality: Annotated[int | None, Opt(metavar="N", help="the codec's own scale, 1 is best")] = None,
    workers: Workers = None,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    from onevision_hf.synthetic import ClipSettings, EncodingSettings, Job

    settings = ClipSettings(num_frames, size, size, background, sweeps)
    encoding = EncodingSettings(codec, gop, bframes, quality)
    kind: Literal["clips", "questions"] = "questions" if context.info_name == "questions" else "clips"
    job = Job(kind, seed, family, clip=settings, encoding=encoding)
    _draw(job, out, count, workers, preview, as_json)


@stage(app, "images with captions and words")
def images(
    out: Out,
    count: Count,
    seed: Seed = 0,
    family: Annotated[str | None, Opt(metavar="NAME", help=_FAMILY + IMAGE_FAMILIES)] = None,
    size: Size = 128,
    split: Annotated[
        str, Opt(metavar="NAME", help="`train` or `held-out`: draw objects of one part only")
    ] = "all",
    workers: Workers = None,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    from onevision_hf.synthetic import ImageSettings, Job

    job = Job("images", seed, family, image=ImageSettings(size, size, split))  # type: ignore[arg-type]  # it refuses others
    _draw(job, out, count, workers, preview, as_json)


def _draw(job: "Job", out: Path, count: int, workers: int | None, preview: bool, as_json: bool) -> None:
    from huggingface_hub.utils import tqdm

    from onevision_hf.synthetic import produce
    from onevision_hf.synthetic.preview import save_preview

    start = time.perf_counter()
    report = produce(
        job,
        out,
        count,
        workers=workers,
        progress=lambda media, total: tqdm(
            media, "synth", total, leave=False, unit="file", disable=as_json or None
        ),
    )
    report["seconds"] = round(time.perf_counter() - start, 3)
    report["preview"] = str(save_preview(job, out, count)) if preview else None
    if as_json:
        print(json.dumps(report, indent=2))
        return
    kept = f", {report['kept']:,} were there" if report["kept"] else ""
    made = f"{report['made']:,} files made in {report['seconds']:.1f} s"
    print(f"{out}: {report['items']:,} {job.kind}, {made}{kept}")
    if report["preview"]:
        print(report["preview"])
