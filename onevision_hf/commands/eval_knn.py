"""`onevision eval knn DIR`: nearest neighbours and a linear readout, minutes, no training.

onevision eval knn drawn/direction --model FOLDER --picture neighbours.png
onevision eval knn pictures --model google/siglip2-base-patch16-224 --json readout.json
onevision eval knn drawn/direction --model descriptors:motion
"""

import argparse
import json
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="pictures and clips, a sub-folder for each class")
    parser.add_argument(
        "--model",
        required=True,
        metavar="ID_OR_FOLDER",
        help="any vision encoder of transformers; `descriptors` are the label-free ones, without weights",
    )
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path("-"),
        metavar="F",
        help="print one JSON document instead of text; with F write it there",
    )
    parser.add_argument("--picture", type=Path, metavar="F.png", help="draw items with their neighbours")
    parser.add_argument("--cache", type=Path, help="folder of the features (default: under ~/.cache)")
    parser.add_argument("--input", choices=("codec", "frames", "dense"), help="what of a clip is shown")
    parser.add_argument(
        "--pooling",
        choices=("pooler", "tokens", "grid"),
        help="what is compared: the encoder's pooled output, the mean of its tokens, or their means in 4 x 2 "
        "x 2 parts of time, height and width (default: grid for clips of an encoder of this package, else "
        "pooler); the table has all",
    )
    own = "(default: the encoder's own processor's)"
    parser.add_argument("--num-patches", type=int, help=f"budget of a clip {own}")
    parser.add_argument("--num-frames", type=int, help=f"sampled of a clip {own}")
    parser.add_argument("--size", type=int, help=f"side in pixels of the middle square {own}")


def run(args: argparse.Namespace) -> int:
    import torch

    from ..eval.probes.knn import readout
    from ..jobs.run_folder import canonical_json, write_atomically

    asked = {"num_patches": args.num_patches, "num_frames": args.num_frames}
    found = readout(
        args.folder,
        args.model,
        cache=args.cache,
        picture=args.picture,
        kind=args.input,
        pooling=args.pooling,
        processor={name: value for name, value in asked.items() if value is not None},
        size=args.size,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    if args.json is not None and str(args.json) != "-":
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, canonical_json(found))
    print(json.dumps(found) if str(args.json) == "-" else describe(found))
    return 0


def describe(found: dict) -> str:
    lines = [
        f"nearest neighbours {found['accuracy']:.1%}, linear {found['linear_accuracy']:.1%}, "
        f"chance {found['chance']:.1%} (largest class {found['majority']:.1%})",
        f"{found['items']} items of {len(found['classes'])} classes, {found['rejected']} rejected; "
        f"{found['split']}",
    ]
    if found["by_pooling"]:
        lines.append(f"{'pooling':10}{'nearest neighbours':>18}{'linear':>10}")
    for name, values in found["by_pooling"].items():
        above = "   (the figures above)" if name == found["pooling"] else ""
        lines.append(f"{name:10}{values['accuracy']:18.1%}{values['linear_accuracy']:10.1%}{above}")
    lines += [f"rejected: {record['key']}: {record['reason']}" for record in found["rejected_items"][:5]]
    return "\n".join(lines)
