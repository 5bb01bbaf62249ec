"""Writes the graphs of `graphs.py`: ONNX with one file of weights for both paths, or torch's own format.

Everything is written into a folder aside, which gets its name when the outputs were compared.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import new_folder
from .graphs import (
    PATHS,
    Exported,
    ExportError,
    check_paths,
    compare,
    interface,
    load_encoder,
    make_graphs,
    output_names,
    trace,
)

OPSETS = range(18, 24)
WEIGHTS = "weights.data"
# Smaller tensors stay in the graph.
INLINE_BYTES = 1024
NEEDED = "onnx export needs: pip install '.[export]' in a clone"


def export(
    runtime: str,
    folder: str,
    out: str | Path,
    *,
    paths: tuple[str, ...] = PATHS,
    opset: int = 18,
    attention: str = "sdpa",
    dtype: str = "float32",
) -> Exported:
    """Export the encoder of a saved folder.

    Args:
        runtime: `onnx` or `torch`.
        folder: of the saved encoder.
        out: folder to make; must be absent or empty.
        paths: of `video` (patches, positions, mask) and `image` (pictures).
        opset: of ONNX.
        attention: `sdpa` or `eager`.
        dtype: `float32`.

    Raises:
        ExportError: an option that cannot be had, or outputs that differ.
        ImportError: onnx is not installed.
        OSError: there is no such model, or `out` is not empty.
    """
    out = Path(out)
    if runtime not in ("onnx", "torch"):
        raise ExportError(f"unknown runtime {runtime!r}: choose onnx or torch")
    if dtype != "float32":
        raise ExportError(
            f"dtype {dtype!r}: graphs are exported in float32, in which they are compared with the model; "
            "onnxruntime's and torch's own tools convert them"
        )
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is out of range: choose {OPSETS.start} to {OPSETS.stop - 1}")
    if runtime == "onnx":
        _require_onnx()
    check_paths(paths)
    with new_folder(out) as aside:
        graphs = make_graphs(load_encoder(folder, attention), paths)
        runs = _write_onnx(graphs, aside, opset) if runtime == "onnx" else _write_torch(graphs, aside)
        error = {path: compare(graph, runs[path]) for path, graph in graphs.items()}
        record: dict[str, Any] = {
            "runtime": runtime,
            "model": folder,
            "relative_error": error,
            "graphs": {path: interface(graph) for path, graph in graphs.items()},
        }
        if runtime == "onnx":
            record["opset"] = opset
        (aside / "export.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    return Exported(out, files, error)


def _require_onnx() -> None:
    try:
        import onnx_ir  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{NEEDED} ({error})") from error


def _write_torch(graphs: dict[str, Any], folder: Path) -> dict[str, Callable[..., Any]]:
    runs: dict[str, Callable[..., Any]] = {}
    for path, graph in graphs.items():
        file = folder / f"{path}.pt2"
        torch.export.save(trace(graph), file)
        runs[path] = torch.export.load(file).module()
    return runs


def _write_onnx(graphs: dict[str, Any], folder: Path, opset: int) -> dict[str, Callable[..., Any]]:
    import onnx_ir as ir

    places: dict[str, tuple[int, int]] = {}
    models = {}
    with open(folder / WEIGHTS, "wb") as weights:
        for path, graph in graphs.items():
            program = torch.onnx.export(
                trace(graph),
                input_names=list(graph.inputs),
                output_names=output_names(graph),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            models[path] = program.model
            _move_weights(ir, program.model, weights, folder, places)
    runs = {}
    for path, graph in graphs.items():
        ir.save(models[path], folder / f"{path}.onnx")
        runs[path] = _session(folder / f"{path}.onnx", graph.inputs)
    return runs


def _move_weights(
    ir: Any, model: Any, weights: Any, folder: Path, places: dict[str, tuple[int, int]]
) -> None:
    """Put large tensors into the file of weights, those that are equal once, whichever graph has them."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE_BYTES:
            continue
        content = tensor.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in places:
            weights.seek(0, os.SEEK_END)
            weights.write(bytes(-weights.tell() % 64))
            places[digest] = (weights.tell(), len(content))
            weights.write(content)
            weights.flush()
        offset, length = places[digest]
        value.const_value = ir.ExternalTensor(
            WEIGHTS, offset, length, tensor.dtype, shape=tensor.shape, name=value.name, base_dir=folder
        )


def _session(file: Path, names: tuple[str, ...]) -> Callable[..., Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run
