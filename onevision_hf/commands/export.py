"""`onevision export onnx|torch DIR OUT`: the encoder as graphs that run without this package.

onevision export onnx tiny out/onnx
onevision export torch out/encoder out/torch --paths image
"""

import json
from typing import Annotated, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .options import Json, NewFolder
from .printing import quiet_loading


def run(
    runtime: Annotated[
        Literal["onnx", "torch"], Arg(help="onnx: .onnx for onnxruntime; torch: .pt2 for torch.export")
    ],
    folder: Annotated[str, Arg(metavar="DIR", help="a saved encoder: a folder, an id on the Hub, or tiny")],
    out: NewFolder,
    paths: Annotated[str, Opt(metavar="A,B", help="which graphs: video (patches), image")] = "video,image",
    opset: Annotated[int, Opt(metavar="N", help="of ONNX, 18 to 23")] = 18,
    attn_implementation: Annotated[
        str, Opt(metavar="NAME", help="sdpa or eager, as the graph writes it")
    ] = "sdpa",
    dtype: Annotated[str, Opt(metavar="NAME", help="of weights and computation")] = "float32",
    as_json: Json = False,
) -> None:
    from onevision_hf.assets import model_folder
    from onevision_hf.conversion.export_graphs import export
    from onevision_hf.view import readable_bytes

    quiet_loading(as_json)
    result = export(
        runtime,
        model_folder(folder),
        out,
        paths=tuple(filter(None, paths.split(","))),
        opset=opset,
        attention=attn_implementation,
        dtype=dtype,
    )
    if as_json:
        document = {
            "out": str(result.folder),
            "files": result.files,
            "relative_error": result.error,
        }
        print(json.dumps(document))
        return
    print(f"{result.folder}: " + ", ".join(f"{n} {readable_bytes(size)}" for n, size in result.files.items()))
    for path, error in result.error.items():
        print(f"  {path:<6} differs by {error:.1e} of the largest output")
