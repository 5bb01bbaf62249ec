"""`onevision encode CLIP...`: codec patchification, then the encoder.

    onevision encode bundled                               # the bundled clip, the encoder in the package
    onevision encode a.mp4 b.mkv --model FOLDER --out features.safetensors
    onevision encode a.mp4 --num-frames 32 --num-patches 1024 --json

A clip that cannot be read is reported in one line; the others are encoded all the same, and the status is 1.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import cached_file, logging

from onevision_hf.assets import TINY, model_folder
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor
from onevision_hf.modeling.video_reader import VideoReader, VideoReadError

from .report import Stages, add_selection_arguments, clip_path, describe_clip, readable_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="video files; `bundled` is the package's clip"
    )
    parser.add_argument(
        "--model",
        default=TINY,
        metavar="ID_OR_FOLDER",
        help="a saved encoder (default: tiny, the trained one that comes with the package)",
    )
    parser.add_argument("--out", type=Path, metavar="F.safetensors", help="where the outputs are written")
    add_selection_arguments(parser)
    parser.add_argument(
        "--errors",
        choices=("raise", "partial"),
        default="raise",
        help="of a truncated clip: an error, or what is there (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    if args.out and args.out.suffix != ".safetensors":
        raise ValueError(f"{args.out}: the outputs are written as .safetensors, found '{args.out.suffix}'")
    stages = Stages()
    if args.json or not sys.stderr.isatty():
        logging.disable_progress_bar()  # of transformers, while weights are loaded
    with stages.timed("model"):
        model, processor, notes = load_encoder(args.model)
    reports: list[dict[str, Any]] = []
    results: list[dict[str, torch.Tensor]] = []
    failures: list[str] = []
    for word in tqdm(args.clips, desc="encode", unit="clip", leave=False, disable=_quiet(args)):
        try:
            report, result = encode_clip(
                word, model, processor, args.num_frames, args.num_patches, args.errors
            )
        except VideoReadError as error:
            failures.append(" ".join(str(error).split()))
            print(f"onevision encode: error: {failures[-1]}", file=sys.stderr)
            continue
        reports.append(report)
        results.append(result)
        if not args.json:
            print("\n".join([*notes, describe(report)]))
            notes = []

    if args.out and results:
        metadata = {
            "clips": json.dumps([report["clip"] for report in reports]),
            "model": args.model,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(pad_together(results), str(args.out), metadata=metadata)
    if args.json:
        document = {
            "model": args.model,
            "notes": notes,
            "parameters": model.num_parameters(),
            "device": str(model.device),
            "seconds": dict(stages),
            "clips": reports,
            "errors": failures,
            "out": str(args.out) if args.out and results else None,
        }
        print(json.dumps(document, indent=2))
    elif args.out and results:
        print(f"{args.out}: {', '.join(results[0])} of {len(results)} clip{'s' * (len(results) > 1)}")
    return 1 if failures else 0


def load_encoder(model: str = TINY) -> tuple[PreTrainedModel, OneVisionVideoProcessor, list[str]]:
    """The encoder, the processor that goes with it, and what a user has to know about them, a line each.

    `tiny` is the one in the package. Only a `model` that is no folder is looked for on the Hub. On a GPU if
    there is one.

    Raises:
        ValueError: `model` is another kind of model. OSError: there is none.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_folder(model)
    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise FileNotFoundError(
            f"{model}: no such folder; name one that holds a saved model, or an id on the Hub"
        )
    config = AutoConfig.from_pretrained(model)
    if not isinstance(config, OneVisionConfig):
        raise ValueError(
            f"{model} is a {config.model_type}, and this command runs {OneVisionConfig.model_type}"
        )
    encoder = AutoModel.from_pretrained(model, config=config).eval().to(device)
    if cached_file(model, "video_preprocessor_config.json", _raise_exceptions_for_missing_entries=False):
        return encoder, OneVisionVideoProcessor.from_pretrained(model), []
    processor = OneVisionVideoProcessor(
        patch_size=config.patch_size, rope_temporal_size=config.rope_temporal_size
    )
    return (
        encoder,
        processor,
        [f"{model} comes without a video processor: the default one for its patches is used"],
    )


def encode_clip(
    clip: str,
    model: PreTrainedModel,
    processor: OneVisionVideoProcessor,
    num_frames: int | None = None,
    num_patches: int | None = None,
    errors: str = "raise",
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read, patchify and encode one clip, named as on the command line. `errors` as of `VideoReader`.

    Returns the report and `last_hidden_state` (1, K, D), `pooler_output` (1, D) where the model has a head,
    `patch_positions` (1, K, 3), on the CPU.
    """
    path, stages = clip_path(clip), Stages()
    with stages.timed("read"):
        reader = VideoReader(path, errors=errors)
        report = describe_clip(clip, path, reader)
    with stages.timed("patchify"), reader:
        inputs = processor(
            reader, num_frames=num_frames, num_patches=num_patches, return_metadata=True, return_tensors="pt"
        )
    selection = inputs.pop("selections")[0]
    inputs.pop("video_metadata")
    with stages.timed("encode"), torch.inference_mode():
        outputs = model(**inputs.to(model.device))
        names = [name for name in ("last_hidden_state", "pooler_output") if outputs.get(name) is not None]
        result = {name: outputs[name].float().cpu() for name in names}
    report |= {
        "frames_sampled": len(selection.frame_ids),
        "patches": int(selection.energy.size),
        "patches_kept": len(selection.positions),
        "share": len(selection.positions) / selection.energy.size,
        "patch_size": selection.geometry.patch_size,
        "signal": selection.signal,
        "seconds": dict(stages),
        "outputs": {name: list(tensor.shape) for name, tensor in result.items()},
    }
    return report, result | {"patch_positions": inputs["patch_positions"].cpu()}


def describe(report: dict[str, Any]) -> str:
    """The report of a clip for people, four lines and the outputs."""
    patch, share = report["patch_size"], 100 * report["share"]
    lines = [
        f"{report['clip']}",
        f"  clip      {report['frames']} frames of {report['width']} x {report['height']}, "
        f"{report['duration']:.1f} s, {report['codec']}, {readable_bytes(report['bytes'])}",
        f"  patches   {report['patches_kept']:,} of {report['patches']:,} kept ({share:.1f} %), "
        f"{patch} x {patch} pixels each, {report['frames_sampled']} frames sampled",
        f"  signal    {report['signal']}",
        f"  seconds   {Stages(report['seconds'])}",
    ]
    shapes = "   ".join(f"{name} {tuple(shape)}" for name, shape in report["outputs"].items())
    return "\n".join([*lines, f"  outputs   {shapes}"])


def pad_together(results: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One batch of all clips, padded with zeros to the longest; the mask names the real rows."""
    lengths = [result["last_hidden_state"].shape[1] for result in results]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    batch = {}
    for name in results[0]:
        rows = [result[name][0] for result in results]
        if name == "pooler_output":
            batch[name] = torch.stack(rows)
        else:
            batch[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return batch | {"pixel_attention_mask": mask}


def _quiet(args: argparse.Namespace) -> bool | None:
    """No bar for one clip or for scripts; None leaves it to whether somebody watches."""
    return True if args.json or len(args.clips) == 1 else None
