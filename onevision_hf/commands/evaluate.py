"""`onevision eval NAME`: one table of evaluations, each configured and run by a module of its own.

onevision eval knn CLIPS --model tiny
"""

import argparse
import importlib
from typing import NamedTuple


class Evaluation(NamedTuple):
    """`module` has `configure(parser)` and `run(args) -> int | None`, and imports nothing large by itself."""

    module: str
    help: str


EVALUATIONS: dict[str, Evaluation] = {
    "probe": Evaluation(
        "onevision_hf.commands.eval_probe", "an attentive probe over a frozen encoder, as published"
    ),
    "knn": Evaluation(
        "onevision_hf.commands.eval_knn", "nearest neighbours and a linear readout on a folder of folders"
    ),
    "suite": Evaluation(
        "onevision_hf.commands.eval_suite", "the 16 benchmarks of the paper, through lmms-eval"
    ),
    "compare": Evaluation(
        "onevision_hf.commands.eval_compare", "codec input against whole frames at one budget, paired"
    ),
    "prepare": Evaluation(
        "onevision_hf.commands.eval_prepare", "the benchmarks' data: what, where, how large, is it there"
    ),
    "motion": Evaluation(
        "onevision_hf.commands.eval_motion",
        "the motion suite: codec input against whole frames at equal budget",
    ),
    "reconstruction": Evaluation(
        "onevision_hf.commands.eval_reconstruction", "how well a unified model rebuilds pictures"
    ),
    "generation": Evaluation(
        "onevision_hf.commands.eval_generation", "generated pictures against a reference set"
    ),
    "zeroshot": Evaluation("onevision_hf.commands.eval_zeroshot", "name pictures by the nearest text"),
    "retrieval": Evaluation(
        "onevision_hf.commands.eval_retrieval", "find the text of a picture, and the picture of a text"
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="evaluation", metavar="EVALUATION", required=True)
    for name, evaluation in EVALUATIONS.items():
        module = importlib.import_module(evaluation.module)
        sub = names.add_parser(name, help=evaluation.help, description=evaluation.help)
        module.configure(sub)
        sub.set_defaults(evaluate=module.run)


def run(args: argparse.Namespace) -> int:
    return args.evaluate(args) or 0
