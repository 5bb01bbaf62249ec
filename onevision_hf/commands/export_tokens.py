"""`onevision export-tokens SRC DST --model M`: the tokens of a unified model, for trainers of generators."""

from typing import Annotated

from typer import Option as Opt

from . import options
from .printing import rejected, say, stored


def run(
    source: options.Source,
    out: options.ShardsOut,
    unified: options.UnifiedModel,
    media_column: options.MediaColumn = None,
    no_mirror: Annotated[
        bool, Opt("--no-mirror", help="leave out latents_flip, of the mirrored pictures")
    ] = False,
    dtype: options.StoredType = "float16",
    batch_size: options.BatchSize = 32,
    workers: options.Workers = 2,
    shard_items: options.ShardItems = 1024,
    redo: options.Redo = False,
    as_json: options.Json = False,
) -> None:
    options.at_least_one(batch_size=batch_size, workers=workers, shard_items=shard_items)
    from onevision_hf.data.sources import open_source
    from onevision_hf.eval.unified.tokens import export_tokens

    summary = export_tokens(
        open_source(source, media_column=media_column),
        out,
        unified.open(),
        mirror=not no_mirror,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        shard_items=shard_items,
        redo=redo,
    )
    say(
        summary,
        as_json,
        stored(out, summary, dtype),
        f"{summary['classes']} classes" if summary["classes"] else "no folders of classes: labels are 0",
        "mean and variance: stat.pt (of each number), latents_stats.pt (of each channel)",
        rejected(out, summary),
    )
