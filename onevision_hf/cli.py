"""The command `onevision`: one table of sub-commands, each configured and run by the room that owns it.

A command module has `configure(parser)`, which adds its arguments, and `run(args) -> int | None`. It is
imported only when its command is named, so `onevision --help` stays quick. Bad input ends with status 1 and
one line on standard error; a wrong option ends with argparse's status 2.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "encode": Command("onevision_hf.commands.encode", "encode clips: codec patchification, then the encoder"),
    "train": Command("onevision_hf.commands.train", "train an encoder from a config (one process)"),
    "plot": Command("onevision_hf.commands.plot", "draw the curves of a training run"),
    "synth": Command("onevision_hf.commands.synth", "draw clips, images and questions whose truth is known"),
    "view": Command("onevision_hf.commands.view", "draw what codec patchification keeps of a clip"),
    "nearest": Command(
        "onevision_hf.commands.nearest", "the drawn clips that a clip is most like, and the motion in it"
    ),
    "demo": Command("onevision_hf.commands.demo", "a page in the browser: drop a clip, see what is kept"),
    "cluster": Command(
        "onevision_hf.commands.cluster", "a folder of media -> features -> clusters -> labelled shards"
    ),
    "eval": Command(
        "onevision_hf.commands.evaluate", "measure an encoder or a model: probes, suites, benchmarks"
    ),
    "convert": Command(
        "onevision_hf.commands.convert", "turn a published checkpoint into a transformers folder"
    ),
    "assemble": Command(
        "onevision_hf.commands.assemble", "an encoder + a language model -> a multimodal model"
    ),
    "chat": Command("onevision_hf.commands.chat", "talk with a multimodal model about a clip or an image"),
    "extract-encoder": Command(
        "onevision_hf.commands.extract_encoder", "the tower of a multimodal model -> an encoder's folder"
    ),
    "latents": Command("onevision_hf.commands.latents", "cache what OpenVision 3's VAE makes of pictures"),
    "export-tokens": Command(
        "onevision_hf.commands.export_tokens", "the tokens of a unified model, for trainers of generators"
    ),
    "push": Command("onevision_hf.commands.push", "publish a folder to a Hub repository"),
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `chosen` filled in (all commands are listed, one is configured)."""
    from onevision_hf import __version__

    parser = argparse.ArgumentParser(
        prog="onevision", description="Codec-sparse vision encoders for Hugging Face transformers."
    )
    parser.add_argument("--version", action="version", version=f"onevision-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name == chosen:
            module = importlib.import_module(command.module)
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        args = build_parser(chosen).parse_args(argv)  # a command may lack the extra that its arguments need
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"onevision {chosen}: error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"onevision {chosen}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
