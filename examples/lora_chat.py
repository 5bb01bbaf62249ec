"""Teach a chat model to see: low-rank matrices in its language model, and a new connector to a video encoder.

    onevision synth questions --out asked --count 300 --family mover_colour     # or conversations of your own
    python examples/lora_chat.py asked --encoder tiny --llm Qwen/Qwen3-0.6B --out out/lora --steps 200

`asked` is a folder of `onevision synth questions`, a .json or .jsonl in LLaVA's layout, or hf:NAME:SPLIT. The
parts are assembled, trained by the task `vl`, and put together again for `onevision chat`. Needs the extra
`train`. For settings beyond these: `onevision train --config vl_lora`.
"""

import argparse
import json
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from onevision_hf.assets import model_folder
from onevision_hf.conversion.multimodal import assemble
from onevision_hf.training.config import load_config
from onevision_hf.training.loop import Trainer


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="conversations")
    parser.add_argument("--encoder", default="tiny", help="a vision encoder (default: onevision-tiny)")
    parser.add_argument("--llm", required=True, help="a causal language model")
    parser.add_argument("--out", type=Path, default=Path("out/lora"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8, help="packs of 4096 tokens in a step")
    parser.add_argument("--media-root", default="", help="where the media of a .json lie")
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    return parser


def main(argv: list[str] | None = None) -> Path:
    args = build_parser().parse_args(argv)
    parts, run, whole = (args.out / name for name in ("assembled", "run", "model"))
    if not parts.exists():
        assemble(model_folder(args.encoder), args.llm, parts)
    settings = {
        "vl.model": str(parts),
        "vl.source": args.source,
        "vl.media_root": args.media_root,
        "vl.lora_rank": args.rank,
        "vl.lora_alpha": 2 * args.rank,
        "vl.batch_size": args.batch_size,
        "vl.connector_lr_scale": 5,  # times the rate of the matrices: it starts from nothing
        "max_steps": args.steps,
        "out": str(run),
        **({"device": args.device} if args.device else {}),
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    Trainer(load_config("vl_lora", overrides)).fit()

    base = AutoModelForImageTextToText.from_pretrained(parts)
    model = PeftModel.from_pretrained(base, str(run / "model")).merge_and_unload()
    model.save_pretrained(whole)
    AutoProcessor.from_pretrained(parts).save_pretrained(whole)
    print(f"onevision chat {whole}")
    return whole


if __name__ == "__main__":
    main()
