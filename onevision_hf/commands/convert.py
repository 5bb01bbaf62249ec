"""`onevision convert NAME SRC DST`: a published checkpoint becomes a transformers folder."""

from typing import Annotated, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .options import Json
from .printing import say


def run(
    converter: Annotated[
        Literal["openvision3", "onevision-encoder", "llava_onevision2"], Arg(help="which published layout")
    ],
    source: Annotated[str, Arg(metavar="SRC", help="folder or Hub id of the published checkpoint")],
    destination: Annotated[str, Arg(metavar="DST", help="folder to write; must not exist or be empty")],
    revision: Annotated[
        str | None, Opt(metavar="NAME", help="branch, tag or commit of a Hub repository")
    ] = None,
    to: Annotated[
        Literal["ours", "published"],
        Opt(help="llava_onevision2: whose names the weights get (Mage-VL is one, too)"),
    ] = "ours",
    as_json: Json = False,
) -> None:
    if converter == "llava_onevision2":
        from onevision_hf.conversion.llava_onevision2 import convert_llava_onevision2

        made = convert_llava_onevision2(source, destination, to, revision)
        files = ", ".join(name for name in made["files"] if not name.endswith(".py"))
        say(
            made,
            as_json,
            f"{source}: {made['from']}, {made['tensors']} tensors of {made['parameters']:,} parameters",
            f"{destination}: {made['to']}; {files}, and the code",
        )
        return
    if to != "ours":
        raise ValueError(f"--to {to} is of llava_onevision2; {converter} becomes ours")
    from onevision_hf.conversion import convert

    result = convert(converter, source, destination, revision)
    say(
        vars(result),
        as_json,
        f"{result.source}: {result.published_keys} tensors, {result.published_numbers:,} numbers, all "
        "consumed",
        f"{result.destination}: {result.parameters:,} parameters; {', '.join(result.files)}",
    )
