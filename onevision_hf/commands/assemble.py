"""`onevision assemble --encoder ID --llm ID --out DIR`: a multimodal model out of parts."""

import argparse
import json

DTYPES = ("float32", "bfloat16", "float16")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder", required=True, metavar="ID",
        help="folder or Hub id of a vision tower, or of a model with one (CLIP, SigLIP 2, Qwen3-VL)",
    )  # fmt: skip
    parser.add_argument("--llm", required=True, metavar="ID", help="folder or Hub id of a causal LM")
    parser.add_argument("--out", required=True, metavar="DIR", help="must not exist or be empty")
    parser.add_argument(
        "--connector", default="mlp2x_gelu", choices=["mlp2x_gelu", "patch_merger"],
        help="a token a patch, as published (default), or one for 2 x 2 patches",
    )  # fmt: skip
    parser.add_argument("--connector-from", metavar="DIR", help="take the trained connector of that model")
    parser.add_argument("--vision-feature-layer", type=int, default=-2, help="default: -2")
    parser.add_argument("--dtype", choices=DTYPES, help="of all weights (default: the wider of the parts')")
    parser.add_argument("--seed", type=int, default=0, help="of the new weights (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    import torch

    from onevision_hf.conversion.multimodal import assemble

    made = assemble(
        args.encoder,
        args.llm,
        args.out,
        connector=args.connector,
        connector_from=args.connector_from,
        vision_feature_layer=args.vision_feature_layer,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        seed=args.seed,
    )
    if args.json:
        print(json.dumps(made.to_dict()))
        return
    print(f"encoder    {made.tower_parameters:>14,} parameters   {made.encoder}")
    state = f"from {args.connector_from}" if args.connector_from else "new: train it before use"
    print(f"connector  {made.connector_parameters:>14,} parameters   {made.connector}, {state}")
    print(f"llm        {made.language_parameters:>14,} parameters   {made.llm}")
    print(f"tokens added: {', '.join(made.tokens_added) or 'none'}")
    print(f"{made.destination}: loads with AutoModelForImageTextToText and AutoProcessor")
