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
    "motion": Evaluation(
        "onevision_hf.commands.eval_motion",
        "the motion suite: codec input against whole frames at equal budget",
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
