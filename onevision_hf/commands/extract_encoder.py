"""`onevision extract-encoder DIR OUT`: the tuned tower of a multimodal model becomes an encoder's folder."""

from typing import Annotated

from typer import Argument as Arg

from .options import Json, NewFolder
from .printing import say


def run(
    source: Annotated[str, Arg(metavar="DIR", help="folder or Hub id of a multimodal model")],
    destination: NewFolder,
    as_json: Json = False,
) -> None:
    from onevision_hf.conversion.tower import extract_encoder

    config, parameters = extract_encoder(source, destination)
    document = {"out": destination, "model_type": config.model_type, "parameters": parameters}
    line = f"{destination}: {config.model_type}, {parameters:,} parameters, loads with AutoModel"
    say(document, as_json, line)
