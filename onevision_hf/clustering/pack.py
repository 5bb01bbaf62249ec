"""Stage 5: media and labels -> shards to train from (`data.media_shards` says how they look).

    onevision cluster pack pictures/ out/labels out/shards --head image
    onevision cluster pack clips/ out/labels out/shards --head video --transcode gop=32 --select
    num_patches=2048

Rows are in the order of their keys; each shard has the same number of them, so that any number of processes
can share them out. An item that cannot be read any more, or that is no longer what was labelled, is in
`rejected.jsonl`. A truncated video that is wanted all the same is packed as a whole file of what is there.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..data.items import Item, MediaError, Source, format_of
from ..data.media import BROKEN, errors_setting, picture_size, reason_of
from ..data.media_shards import STAGE, PackedExample, write_shard
from ..data.tar_shards import LAYOUT, shard_names
from ..data.transcode import CRF, PRESET, complete, transcode
from ..jobs.prefetch import ahead
from ..jobs.processes import Processes
from ..jobs.progress import progress
from ..jobs.run_folder import FinishedRun, RunFolder, digest_of, json_lines
from ..modeling.patchify_config import select_patches
from ..modeling.signal_settings import SignalSettings
from ..modeling.video_reader import VideoReader
from .assign import LabelShards


def pack(
    source: Source,
    labels: str | Path,
    out: str | Path,
    head: str,
    *,
    shard_items: int = 1024,
    gop: int | None = None,
    selection: Mapping[str, Any] | None = None,
    workers: int = 4,
    errors: str = "skip",
    redo: bool = False,
) -> dict[str, Any]:
    """Write every labelled item with its media; a run that was stopped goes on with the next shard.

    Args:
        source: the source that the features were made from, unchanged since.
        labels: a finished assign folder.
        out: the folder to fill.
        head: the name of the training head that these labels are for: letters, digits, `_`.
        shard_items: items of a shard.
        gop: transcode videos to H.264 with a keyframe every so many pictures.
        selection: keyword arguments of `select_patches`: choose each video's patches now, and keep the
            choice.
        workers: threads that read and transcode.
        errors: "skip" leaves out what cannot be read, into rejected.jsonl; "partial" packs what is there of
            truncated videos, as whole files without sound, and lists them in partial.jsonl.
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `items`, `rejected`, `classes`, `rows` (of each shard), and with "partial" how many items
        are, in `partial`.

    Raises:
        ValueError: the source has changed since it was labelled, or an argument is out of range.
    """
    of_errors = errors_setting(errors)
    processes = Processes.current()
    if not re.fullmatch(r"\w+", head):
        raise ValueError(f"a head's name is letters, digits and _, found {head!r}")
    labelled = LabelShards(labels)
    if labelled.media != source.digest:
        raise ValueError(
            "the source is not what was labelled: files were added, removed or changed since, or it was "
            "opened another way; make the features and labels again"
        )
    settings = {
        "head": head,
        "layout": LAYOUT,
        "shard_items": shard_items,
        "transcode": {"gop": gop, "crf": CRF, "preset": PRESET} if gop is not None else None,
        "selection": dict(selection) if selection is not None else None,
        **of_errors,
    }
    if selection is not None and gop is None:  # what is transcoded is H.264, whose signals are as ever
        chosen = SignalSettings(selection.get("preset", "auto"), selection.get("signals"))
        if chosen.version > 1:
            settings["signals_version"] = chosen.version
    sources = digest_of([source.digest, labelled.run.digest])
    with processes.open_run(out, stage=STAGE, settings=settings, sources=sources, redo=redo) as run:
        total = sum(labelled.rows)
        count = -(-total // shard_items)
        names = [shard_names(head, index) for index in range(count)]
        absent = run.missing([name[-1] for name in names])
        if run.finished and not absent:
            return FinishedRun(out, STAGE).summary
        mine = set(processes.own(absent))
        items = {item.key: item for item in source.items}

        missing: dict[str, str] | None = {} if errors == "partial" else None

        def one(row: Mapping[str, Any]) -> PackedExample | dict[str, str]:
            try:
                return _row(source, items[row["key"]], row, head, gop, selection, missing)
            except BROKEN as error:
                return {"key": row["key"], "reason": reason_of(error)}

        planned = sum(min(shard_items, total - i * shard_items) for i in mine)
        with progress(f"pack ({head})", planned, not processes.main) as step:
            for index, rows in enumerate(_batched(_rows(labelled), shard_items)):
                if index not in mine:
                    continue
                packed: list[PackedExample] = []
                rejected: list[dict[str, str]] = []
                for result in ahead(one, rows, workers, depth=2 * workers):
                    step(1)
                    if isinstance(result, PackedExample):
                        packed.append(result)
                    else:
                        rejected.append(result)
                tar, last = names[index]
                notes = [f"{name}-{index:05d}.jsonl" for name in ("rejected", "partial")]
                with run.shard(last, *notes, tar) as (path, rejected_path, partial_path, tar_path):
                    rejected_path.write_text(json_lines(rejected))
                    if missing is not None:
                        keys = [row.key for row in packed if row.key in missing]
                        partial_path.write_text(json_lines([{"key": k, "reason": missing[k]} for k in keys]))
                    write_shard(packed, [tar_path, path], index * shard_items)
        processes.finish(lambda: _finish(run, [name[-1] for name in names], total, labelled.classes))
        return FinishedRun(out, STAGE).summary


def _finish(run: RunFolder, names: list[str], total: int, classes: int) -> None:
    if not total:
        raise ValueError("nothing is labelled")
    count = run.gather_rejected(len(names), total, "items")
    rows = [pq.read_metadata(run.path / name).num_rows for name in names]
    summary = {"items": sum(rows), "rejected": count, "classes": classes, "rows": rows}
    run.finish(summary | run.gather_partial(len(names)))


def _batched(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _rows(labelled: LabelShards) -> Iterator[dict[str, Any]]:
    for shard in range(len(labelled)):
        yield from labelled.table(shard).to_pylist()


def _chosen(reader: VideoReader, selection: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of a clip's selection."""
    try:
        found = select_patches(reader, **selection)
    except ValueError as error:  # a budget that this clip cannot have
        raise MediaError(f"no selection of its patches: {reason_of(error)}") from error
    return {
        "positions": found.positions.astype(np.int16),
        "frame_ids": found.frame_ids.astype(np.int64),
        "timestamps": found.timestamps.astype(np.float64),
        "scores": found.scores.astype(np.float32),
        "grid": np.array(found.energy.shape[1:], np.int64),
    }


def _row(
    source: Source,
    item: Item,
    row: Mapping[str, Any],
    head: str,
    gop: int | None,
    selection: Mapping[str, Any] | None,
    missing: dict[str, str] | None,
) -> PackedExample:
    """`missing` is given where truncated videos are packed too; it is told what of each there is."""
    content = source.read(item)
    chosen: dict[str, np.ndarray] | None = None
    frames, duration = 1, 0.0
    if item.kind == "video":
        if missing is not None:
            content, told = complete(content)
            if told:
                missing[item.key] = told
        if gop is not None:
            content = transcode(content, gop)
        with VideoReader(content) as reader:
            width, height, frames, duration = reader.width, reader.height, len(reader), reader.duration
            if selection is not None:
                chosen = _chosen(reader, selection)
    else:
        width, height = picture_size(content)
    extension = format_of(content, item.key.rpartition(".")[2].lower())
    if extension == "mkv" and item.key.lower().endswith(".webm"):
        extension = "webm"
    if not content:
        raise MediaError("the file is empty")
    return PackedExample(
        key=item.key,
        head=head,
        kind=item.kind,
        format=extension,
        media=content,
        labels=np.asarray(row["labels"], np.int32),
        scores=np.asarray(row.get("scores") or [], np.float32),
        width=width,
        height=height,
        frames=frames,
        duration=float(duration),
        selection=chosen,
    )
