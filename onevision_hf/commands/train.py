"""`onevision train`: one process of training; more with `accelerate launch -m onevision_hf.training`."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    from ..training.__main__ import configure as configure_training

    configure_training(parser)


def run(args: argparse.Namespace) -> int:
    from ..training.__main__ import run as train

    return train(args)
