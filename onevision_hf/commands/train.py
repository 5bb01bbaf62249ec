"""`onevision train`: one process of training; more with `accelerate launch -m onevision_hf.training`."""

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    from ..training.__main__ import configure as configure_training

    configure_training(parser)


def run(args: argparse.Namespace) -> int:
    from ..training.__main__ import run as train
    from ..training.loop import TrainingError

    try:
        return train(args)
    except TrainingError as error:
        print(f"onevision train: error: {error}", file=sys.stderr)
        return 1
