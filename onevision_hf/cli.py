"""The command `onevision`: a table of sub-commands, each in a module of `commands`, imported when needed.

Bad input ends with status 1 and one line on standard error, a wrong option with status 2, Ctrl-C with 130.
`onevision --install-completion` lets the shell complete commands and options.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import typer

from .commands.groups import group

# In the order in which one comes to need them: look at clips, make data, train, measure, put models together.
COMMANDS = {
    "encode": "encode clips: codec patchification, then the encoder",
    "view": "draw what codec patchification keeps of a clip",
    "signals": "motion vectors, residual and ages of a clip, as arrays or drawn",
    "demo": "a page in the browser: drop a clip, see what is kept",
    "synth": "draw clips, images and questions whose truth is known",
    "cluster": "a folder of media -> features -> clusters -> labelled shards",
    "patches": "a corpus of clips -> shards of selected patches to train from",
    "latents": "cache what OpenVision 3's VAE makes of pictures",
    "train": "train an encoder from a config (one process)",
    "plot": "draw the curves of a training run",
    "eval": "measure an encoder or a model: probes, suites, benchmarks",
    "convert": "turn a published checkpoint into a transformers folder",
    "assemble": "an encoder + a language model -> a multimodal model",
    "chat": "talk with a multimodal model about a clip or an image",
    "extract-encoder": "the tower of a multimodal model -> an encoder's folder",
    "export": "an encoder as graphs for onnxruntime or torch, without this package",
    "export-tokens": "the tokens of a unified model, for trainers of generators",
    "push": "publish a folder to a Hub repository",
    "doctor": "what is installed and works here; whether run folders are still whole",
}
EPILOG = """\b
begin with
  onevision encode bundled                   the clip and the encoder that come with the package
  onevision view bundled --out kept.png      what is kept of it, and why
  onevision COMMAND --help                   what a command takes

`--json` prints one document on standard output, for scripts. Nothing is fetched unless an option names an id
on the Hub. Status 0: done; 1: bad input, in one line on standard error; 2: a wrong option."""

app = group("onevision_hf.commands.", COMMANDS, add_completion=True, epilog=EPILOG)


def _print_version(wanted: bool) -> None:
    if wanted:
        from onevision_hf import __version__

        print(f"onevision-hf {__version__}")
        raise typer.Exit


@app.callback()
def _onevision(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Codec-sparse vision encoders for Hugging Face transformers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)

    command: Any = typer.main.get_command(app)
    invoke = command.invoke

    def invoke_and_report(ctx: typer.Context) -> None:
        try:
            status = invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            print(f"onevision {chosen}: {in_red('error', sys.stderr)}: {message}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            print(f"onevision {chosen}: interrupted", file=sys.stderr)
            status = 130
        raise typer.Exit(status or 0)

    command.invoke = invoke_and_report
    try:
        command.main(argv, prog_name="onevision")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    return 0


def in_red(words: str, stream: TextIO) -> str:
    """`words` in red where a person reads `stream` and has not turned colours off (https://no-color.org)."""
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return words if plain else f"\x1b[31m{words}\x1b[0m"


if __name__ == "__main__":
    sys.exit(main())
