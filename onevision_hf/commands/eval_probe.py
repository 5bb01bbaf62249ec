"""`onevision eval probe`: an attentive probe over a frozen encoder, with the published protocol.

onevision eval probe --config ssv2 --model FOLDER data.train=train.csv data.test=validation.csv
onevision eval probe --config drawn --model FOLDER data.train=drawn/direction head.position=[0,0,0]
python -m torch.distributed.run --nproc_per_node 8 -m onevision_hf.cli eval probe --config k400 ...
"""

import argparse
import json
import os


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="a name in onevision_hf/eval/probes/configs (ssv2, diving48, perception_test, "
        "charades_ego, epic_verb, epic_noun, k400, hmdb51, drawn), or a YAML file",
    )
    parser.add_argument("--model", metavar="ID_OR_FOLDER", help="any vision encoder of transformers")
    parser.add_argument("--input", choices=("codec", "frames", "dense"), help="what of a clip is shown")
    parser.add_argument(
        "--budget",
        "--num-patches",
        dest="budget",
        type=int,
        metavar="N",
        help="patches of a clip: 512, 1024, 2048, 4096",
    )
    parser.add_argument(
        "--intervene",
        action="append",
        default=[],
        choices=("replace", "foreign", "shuffle"),
        help="after training, change the patches of the test clips; may be given several times",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="fields of the config, for instance optim.learning_rate=5e-5",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def run(args: argparse.Namespace) -> int:
    from ..eval.probes.config import load_probe_config
    from ..eval.probes.run import run_probe
    from ..training.loop import TrainingError, close

    given = {"model": args.model, "input.kind": args.input, "input.num_patches": args.budget}
    short = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    if args.intervene:
        short.append(f"intervene={json.dumps(args.intervene)}")
    config = load_probe_config(args.config, [*short, *args.overrides])
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(config.device == "cpu").lower())
    try:
        status, result = run_probe(config)
    except TrainingError as error:
        raise ValueError(str(error)) from error
    if status == 0 and int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result) if args.json else describe(config.out, result))
    close()
    return status


def describe(out: str, result: dict) -> str:
    """Three lines."""

    def percent(spread: dict) -> str:
        deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
        return f"{100 * spread['mean']:.1f}{deviation} %"

    return "\n".join(
        [
            f"top-1: {percent(result['last']['accuracy'])} in the last epoch, "
            f"{percent(result['best']['accuracy'])} in the best on the test set (published figures are the "
            f"best), chance {100 * result['chance']:.1f} %",
            f"{result['test_clips']} test clips, {result['missing']} missing, {len(result['broken'])} "
            "unreadable",
            f"{out}/report.md: published rows, classes, the confusion matrix",
        ]
    )
