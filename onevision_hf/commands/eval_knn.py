"""`onevision eval knn DIR`: nearest neighbours and a linear classifier, minutes, no training.

onevision eval knn drawn/direction --model FOLDER --picture neighbours.png
onevision eval knn pictures --model google/siglip2-base-patch16-224 --json knn.json
onevision eval knn drawn/direction --model descriptors:motion
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .groups import OpenEndedOptions
from .options import BatchErrors, ClipInput, JsonOrFile, given
from .printing import pick_device

_OWN = "(default: the encoder's own processor's)"


class COMMAND_CLASS(OpenEndedOptions):
    optional = ("--json",)


def run(
    folder: Annotated[str, Arg(metavar="DIR", help="pictures and clips, a sub-folder for each class")],
    model: Annotated[
        str,
        Opt(
            metavar="ID_OR_FOLDER",
            help="any vision encoder of transformers; `descriptors` are the label-free ones, without weights",
        ),
    ],
    as_json: JsonOrFile = None,
    picture: Annotated[Path | None, Opt(metavar="F.png", help="draw items with their neighbours")] = None,
    cache: Annotated[
        Path | None, Opt(metavar="DIR", help="folder of the features (default: under ~/.cache)")
    ] = None,
    clip_input: ClipInput = None,
    pooling: Annotated[
        Literal["pooler", "tokens", "grid"] | None,
        Opt(
            help="what is compared: the encoder's pooled output, the mean of its tokens, or their means in "
            "4 x 2 x 2 parts of time, height and width (default: grid for clips of an encoder of this "
            "package, else pooler); the table has all"
        ),
    ] = None,
    num_patches: Annotated[int | None, Opt(metavar="N", help=f"budget of a clip {_OWN}")] = None,
    num_frames: Annotated[int | None, Opt(metavar="N", help=f"sampled of a clip {_OWN}")] = None,
    size: Annotated[int | None, Opt(metavar="N", help=f"side in pixels of the middle square {_OWN}")] = None,
    errors: BatchErrors = "skip",
) -> None:
    from onevision_hf.eval.probes.knn import evaluate_knn
    from onevision_hf.jobs.run_folder import canonical_json, write_atomically

    found = evaluate_knn(
        folder,
        model,
        cache=cache,
        picture=picture,
        kind=clip_input,
        pooling=pooling,
        processor=given(num_patches=num_patches, num_frames=num_frames),
        size=size,
        device=pick_device(),
        errors=errors,
    )
    if as_json is not None and str(as_json) != "-":
        as_json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(as_json, canonical_json(found))
    print(json.dumps(found) if str(as_json) == "-" else _describe(found))


def _describe(found: dict[str, Any]) -> str:
    partial = f", {found['partial']} truncated and used in part" if "partial" in found else ""
    lines = [
        f"nearest neighbours {found['accuracy']:.1%}, linear {found['linear_accuracy']:.1%}, "
        f"chance {found['chance']:.1%} (largest class {found['majority']:.1%})",
        f"{found['items']} items of {len(found['classes'])} classes, {found['rejected']} rejected{partial}; "
        f"{found['split']}",
    ]
    if found["by_pooling"]:
        lines.append(f"{'pooling':10}{'nearest neighbours':>18}{'linear':>10}")
    for name, values in found["by_pooling"].items():
        above = "   (the figures above)" if name == found["pooling"] else ""
        lines.append(f"{name:10}{values['accuracy']:18.1%}{values['linear_accuracy']:10.1%}{above}")
    lines += [f"rejected: {record['key']}: {record['reason']}" for record in found["rejected_items"][:5]]
    return "\n".join(lines)
