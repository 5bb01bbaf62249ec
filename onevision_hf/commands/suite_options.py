"""Options that `onevision eval suite` and `onevision eval compare` share."""

import argparse
from pathlib import Path
from typing import Any


def add_run_options(parser: argparse.ArgumentParser, *, tasks: str) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="a multimodal model (onevision assemble)"
    )
    parser.add_argument(
        "--tasks",
        default=tasks,
        metavar="all16|video|image|openvision3|NAME,...",
        help=f"suites and task names, comma-separated (default: {tasks})",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N questions of each task only")
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="where the data lie (onevision eval prepare); default: HF_HOME",
    )
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    parser.add_argument("--dtype", default="auto", help="of the weights (default: auto, the checkpoint's)")
    parser.add_argument("--attn-implementation", metavar="NAME", help="as in transformers")
    parser.add_argument(
        "--batch-size", default="auto", metavar="N|auto", help="most prompts at once (default: auto)"
    )
    parser.add_argument(
        "--token-budget", type=positive, default=16384, metavar="N", help="tokens of a batch (default: 16384)"
    )
    parser.add_argument("--max-new-tokens", type=positive, metavar="N", help="a limit below the tasks' own")
    parser.add_argument(
        "--feature-cache-mb",
        type=int,
        default=1024,
        metavar="N",
        help="for features of clips (default: 1024)",
    )
    parser.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="threads that read media (default: 2)"
    )
    parser.add_argument(
        "--on-error",
        choices=("wrong", "skip", "stop"),
        default="wrong",
        help="what a question with broken media counts as (default: wrong)",
    )


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the model `onevision`, as far as they are set."""
    given = {
        "pretrained": args.model,
        "device": args.device,
        "dtype": args.dtype,
        "attn_implementation": args.attn_implementation,
        "batch_size": args.batch_size,
        "token_budget": args.token_budget,
        "max_new_tokens": args.max_new_tokens,
        "feature_cache_mb": args.feature_cache_mb,
        "workers": args.workers,
        "on_error": args.on_error,
    }
    return {name: value for name, value in given.items() if value is not None}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {text}")
    return value
