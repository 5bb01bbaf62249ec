"""`onevision eval probe`: an attentive probe over a frozen encoder, with the published protocol.

onevision eval probe --config ssv2 --model FOLDER data.train=train.csv data.test=validation.csv
onevision eval probe --config drawn --model FOLDER data.train=drawn/direction head.position=[0,0,0]
python -m torch.distributed.run --nproc_per_node 8 -m onevision_hf.cli eval probe --config k400 ...
"""

import json
import os
from typing import Annotated, Any

from typer import Option as Opt

from .options import ClipInput, Intervention, Json, Overrides, given


def run(
    config: Annotated[
        str,
        Opt(
            metavar="NAME|FILE",
            help="a name in onevision_hf/eval/probes/configs (ssv2, diving48, perception_test, charades_ego, "
            "epic_verb, epic_noun, k400, hmdb51, drawn), or a YAML file",
        ),
    ],
    overrides: Overrides = None,
    model: Annotated[
        str | None, Opt(metavar="ID_OR_FOLDER", help="any vision encoder of transformers")
    ] = None,
    clip_input: ClipInput = None,
    budget: Annotated[
        int | None,
        Opt("--budget", "--num-patches", metavar="N", help="patches of a clip: 512, 1024, 2048, 4096"),
    ] = None,
    intervene: Annotated[
        list[Intervention] | None,
        Opt(help="after training, change the patches of the test clips; may be given several times"),
    ] = None,
    as_json: Json = False,
) -> int:
    from onevision_hf.eval.probes.config import load_probe_config
    from onevision_hf.eval.probes.run import run_probe
    from onevision_hf.training.loop import TrainingError, close

    short = given(model=model, **{"input.kind": clip_input, "input.num_patches": budget})
    if intervene:
        short["intervene"] = [name.value for name in intervene]
    loaded = load_probe_config(
        config, [f"{key}={json.dumps(value)}" for key, value in short.items()] + (overrides or [])
    )
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(loaded.device == "cpu").lower())
    try:
        status, result = run_probe(loaded)
    except TrainingError as error:
        raise ValueError(str(error)) from error
    if status == 0 and int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result) if as_json else _describe(loaded.out, result))
    close()
    return status


def _describe(out: str, result: dict[str, Any]) -> str:
    """Three lines."""

    def percent(spread: dict) -> str:
        deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
        return f"{100 * spread['mean']:.1f}{deviation} %"

    return (
        f"top-1: {percent(result['last']['accuracy'])} in the last epoch, "
        f"{percent(result['best']['accuracy'])} in the best on the test set (published figures are the "
        f"best), chance {100 * result['chance']:.1f} %\n"
        f"{result['test_clips']} test clips, {result['missing']} missing, "
        f"{len(result['broken'])} unreadable\n"
        f"{out}/report.md: published rows, classes, the confusion matrix"
    )
