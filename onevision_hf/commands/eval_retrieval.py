"""`onevision eval retrieval SRC --model M`: the text of each picture, and the picture of each text: R@1, 5,
10.

onevision eval retrieval karpathy-test/ --model M
onevision eval retrieval drawn --model M --caption 0 --limit 1000 --json
"""

from typing import Annotated

from typer import Argument as Arg
from typer import Option as Opt

from .options import BatchSize, PictureRun, UnifiedModel, at_least_one
from .printing import print_figures


def run(
    source: Annotated[
        str, Arg(metavar="SRC", help="pictures with captions: tars, parquet, hf:NAME:SPLIT, or drawn images")
    ],
    unified: UnifiedModel,
    how: PictureRun,
    image_column: Annotated[str, Opt(metavar="NAME", help="of parquet and datasets")] = "",
    caption_column: Annotated[list[str] | None, Opt(metavar="NAME", help="likewise; may be repeated")] = None,
    caption: Annotated[
        int | None, Opt(metavar="N", help="of each picture's captions take number N, from 0 (default: all)")
    ] = None,
    batch_size: BatchSize = 64,
) -> None:
    at_least_one(limit=how.limit, batch_size=batch_size, workers=how.workers)
    if caption is not None and caption < 0:
        raise ValueError(f"--caption counts from 0, found {caption}")
    from onevision_hf.data.captions import open_pairs
    from onevision_hf.eval.unified.retrieval import AT, measure_retrieval
    from onevision_hf.jobs.progress import progress

    pairs = open_pairs(source, image_column, caption_column or [])
    opened = unified.open()
    with progress("encoded", min(len(pairs), how.limit or len(pairs)), silent=how.as_json) as step:
        found = measure_retrieval(
            pairs,
            opened,
            name=source,
            caption=caption,
            limit=how.limit,
            batch_size=batch_size,
            workers=how.workers,
            step=step,
        )
    lines = [f"{found['pictures']} pictures, {found['texts']} different texts"]
    for way in ("image_to_text", "text_to_image"):
        figures = "  ".join(
            f"R@{k} {found[way][f'R@{k}']:.1%} (chance {found['by_chance'][way][f'R@{k}']:.1%})" for k in AT
        )
        lines.append(f"{way.replace('_', ' ')}: {figures}")
    if found["texts_cut"]:
        lines.append(f"{found['texts_cut']} texts were longer than the text encoder reads, and were cut")
    print_figures({"model": unified.model, "source": source, **found}, lines, how.out, how.as_json)
