"""Find the clips of a folder that are most like a given one.

    python examples/search_videos.py index videos index.safetensors
    python examples/search_videos.py find index.safetensors query.mp4 --count 5

`index` encodes every clip of the folder once, those that can be read; `find` encodes the query and compares.
Features are pooled, standardised over the index, and compared by cosine.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import onevision_hf
from onevision_hf import OneVisionModel, OneVisionVideoProcessor, VideoReadError

SUFFIXES = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".m4v"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    index = actions.add_parser("index", help="encode a folder")
    index.add_argument("folder", type=Path)
    index.add_argument("index", type=Path, help="where the features are written, .safetensors")
    index.add_argument(
        "--model", default=str(onevision_hf.tiny()), help="an encoder (default: onevision-tiny)"
    )
    find = actions.add_parser("find", help="the most alike")
    find.add_argument("index", type=Path)
    find.add_argument("clip", type=Path)
    find.add_argument("--count", type=int, default=5)
    return parser


class Encoder:
    def __init__(self, folder: str):
        self.model = OneVisionModel.from_pretrained(folder).eval()
        self.processor = OneVisionVideoProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def __call__(self, clip: Path) -> torch.Tensor:
        return self.model(**self.processor(str(clip), return_tensors="pt")).pooler_output[0]


def index(args: argparse.Namespace) -> int:
    encode, features, names = Encoder(args.model), [], []
    clips = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    for number, clip in enumerate(clips, 1):
        try:
            features.append(encode(clip))
            names.append(str(clip))
        except VideoReadError as error:
            print(error, file=sys.stderr)
        print(f"\r{number} of {len(clips)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    if not features:
        raise SystemExit(f"{args.folder}: none of {len(clips)} clips could be read")
    metadata = {"clips": json.dumps(names), "model": args.model}
    save_file({"features": torch.stack(features)}, args.index, metadata=metadata)
    return len(names)


def find(args: argparse.Namespace) -> list[tuple[str, float]]:
    with safe_open(args.index, "pt") as file:
        features, metadata = file.get_tensor("features"), file.metadata()
    names = json.loads(metadata["clips"])
    mean, spread = features.mean(0), features.std(0, correction=0) + 1e-6
    query = (Encoder(metadata["model"])(args.clip) - mean) / spread
    likeness = torch.cosine_similarity((features - mean) / spread, query[None])
    best = likeness.topk(min(args.count, len(names)))
    found = [(names[i], value) for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    for name, value in found:
        print(f"{value:.3f}  {name}")
    return found


def main(argv: list[str] | None = None) -> int | list[tuple[str, float]]:
    args = build_parser().parse_args(argv)
    return index(args) if args.action == "index" else find(args)


if __name__ == "__main__":
    main()
