"""`onevision export onnx|torch DIR OUT`: the encoder as graphs that run without this package.

onevision export onnx tiny out/onnx
onevision export torch out/encoder out/torch --paths image
"""

import argparse
import json
import sys

from .report import readable_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runtime", choices=("onnx", "torch"), help="onnx: .onnx for onnxruntime; torch: .pt2 for torch.export"
    )
    parser.add_argument("folder", metavar="DIR", help="a saved encoder: a folder, an id on the Hub, or tiny")
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--paths", default="video,image", help="which graphs: video (patches), image (%(default)s)"
    )
    parser.add_argument("--opset", type=int, default=18, help="of ONNX, 18 to 23 (%(default)s)")
    parser.add_argument(
        "--attn-implementation", default="sdpa", help="sdpa or eager, as the graph writes it (%(default)s)"
    )
    parser.add_argument("--dtype", default="float32", help="of weights and computation (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from onevision_hf.assets import model_folder
    from onevision_hf.conversion.export_graphs import export

    if args.json or not sys.stderr.isatty():
        logging.disable_progress_bar()  # of transformers, while weights are loaded
    result = export(
        args.runtime,
        model_folder(args.folder),
        args.out,
        paths=tuple(filter(None, args.paths.split(","))),
        opset=args.opset,
        attention=args.attn_implementation,
        dtype=args.dtype,
    )
    if args.json:
        print(
            json.dumps(
                {
                    "out": str(result.folder),
                    "files": result.files,
                    "relative_error": result.error,
                    "seconds": {
                        path: {"model": model, "graph": graph}
                        for path, (model, graph) in result.seconds.items()
                    },
                    "speed_ratio": {path: model / graph for path, (model, graph) in result.seconds.items()},
                }
            )
        )
        return
    print(f"{result.folder}: " + ", ".join(f"{n} {readable_bytes(size)}" for n, size in result.files.items()))
    for path, error in result.error.items():
        model, graph = result.seconds[path]
        print(
            f"  {path:<6} differs by {error:.1e} of the largest output; {1000 * model:.1f} ms in torch, "
            f"{1000 * graph:.1f} ms exported: {model / graph:.2f} x"
        )
