"""The command `onevision`: one table of sub-commands, each configured and run by the room that owns it.

A command module has `configure(parser)`, which adds its arguments, and `run(args) -> int | None`. It is
imported only when its command is named, so `onevision --help` stays quick. Bad input ends with status 1 and
one line on standard error; a wrong option ends with argparse's status 2.

    onevision --print-completion bash > ~/.local/share/bash-completion/completions/onevision
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO


class Command(NamedTuple):
    module: str
    help: str


# In the order in which one comes to need them: look at clips, make data, train, measure, put models together.
COMMANDS: dict[str, Command] = {
    "encode": Command("onevision_hf.commands.encode", "encode clips: codec patchification, then the encoder"),
    "view": Command("onevision_hf.commands.view", "draw what codec patchification keeps of a clip"),
    "nearest": Command(
        "onevision_hf.commands.nearest", "the drawn clips that a clip is most like, and the motion in it"
    ),
    "demo": Command("onevision_hf.commands.demo", "a page in the browser: drop a clip, see what is kept"),
    "synth": Command("onevision_hf.commands.synth", "draw clips, images and questions whose truth is known"),
    "cluster": Command(
        "onevision_hf.commands.cluster", "a folder of media -> features -> clusters -> labelled shards"
    ),
    "patches": Command(
        "onevision_hf.commands.patches", "a corpus of clips -> shards of selected patches to train from"
    ),
    "latents": Command("onevision_hf.commands.latents", "cache what OpenVision 3's VAE makes of pictures"),
    "train": Command("onevision_hf.commands.train", "train an encoder from a config (one process)"),
    "plot": Command("onevision_hf.commands.plot", "draw the curves of a training run"),
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
    "export": Command(
        "onevision_hf.commands.export", "an encoder as graphs for onnxruntime or torch, without this package"
    ),
    "export-tokens": Command(
        "onevision_hf.commands.export_tokens", "the tokens of a unified model, for trainers of generators"
    ),
    "push": Command("onevision_hf.commands.push", "publish a folder to a Hub repository"),
    "doctor": Command(
        "onevision_hf.commands.doctor", "what is installed and works here, and what to install for the rest"
    ),
}
SHELLS = ("bash", "zsh", "tcsh")
EPILOG = """begin with
  onevision encode bundled                   the clip and the encoder that come with the package
  onevision view bundled --out kept.png      what is kept of it, and why
  onevision COMMAND --help                   what a command takes

`--json` prints one document on standard output, for scripts. Nothing is fetched unless an option names an id
on the Hub. Status 0: done; 1: bad input, in one line on standard error; 2: a wrong option."""


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `chosen` filled in (all commands are listed, one is configured)."""
    parser, subparsers = _listed()
    if chosen in COMMANDS:
        _configure(chosen, subparsers[chosen])
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the arguments of every command but those whose extra is not installed."""
    parser, subparsers = _listed()
    for name, subparser in subparsers.items():
        try:
            _configure(name, subparser)
        except ImportError as error:
            print(f"onevision {name}: without its options, {error}", file=sys.stderr)
    return parser


def _listed() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    from onevision_hf import __version__

    parser = argparse.ArgumentParser(
        prog="onevision",
        description="Codec-sparse vision encoders for Hugging Face transformers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"onevision-hf {__version__}")
    parser.add_argument(
        "--print-completion", choices=SHELLS, help="print what completes this command in that shell"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made = {
        name: subparsers.add_parser(name, help=command.help, description=command.help)
        for name, command in COMMANDS.items()
    }
    return parser, made


def _configure(name: str, subparser: argparse.ArgumentParser) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    module.configure(subparser)
    subparser.set_defaults(run=module.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if argv[:1] == ["--print-completion"] and argv[1:] and argv[1] in SHELLS:
        import shtab

        print(shtab.complete(whole_parser(), argv[1]))
        return 0
    try:
        args = build_parser(chosen).parse_args(argv)  # a command may lack the extra that its arguments need
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"onevision {chosen}: {in_red('error', sys.stderr)}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"onevision {chosen}: interrupted", file=sys.stderr)
        return 130


def in_red(words: str, stream: TextIO) -> str:
    """`words` in red where a person reads `stream` and has not asked for none (https://no-color.org)."""
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return words if plain else f"\x1b[31m{words}\x1b[0m"


if __name__ == "__main__":
    sys.exit(main())
