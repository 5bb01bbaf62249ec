"""`onevision eval zeroshot DIR --model M`: name pictures by the nearest text.

onevision eval zeroshot imagenet/val --model M --names classes.json --templates simple
onevision eval zeroshot drawn --model M --templates name --template "a plain {}" --template "a striped {}"
"""

from typing import Annotated

from typer import Argument as Arg
from typer import Option as Opt

from .options import BatchSize, PictureRun, UnifiedModel, at_least_one
from .printing import print_figures


def run(
    folder: Annotated[str, Arg(metavar="DIR", help="a folder of pictures for each class")],
    unified: UnifiedModel,
    how: PictureRun,
    names: Annotated[
        str | None, Opt(metavar="FILE", help='JSON: {"folder": "name" or ["name", ...], ...}')
    ] = None,
    templates: Annotated[
        str | None,
        Opt(
            metavar="SET",
            help="name ({}), photo (a photo of a {}.), simple (seven); default: photo, or none "
            "with --template",
        ),
    ] = None,
    template: Annotated[list[str] | None, Opt(metavar="TEXT", help="one more, with {}")] = None,
    batch_size: BatchSize = 64,
) -> None:
    at_least_one(limit=how.limit, batch_size=batch_size, workers=how.workers)
    from onevision_hf.eval.unified.zeroshot import TEMPLATES, check_templates, measure_zeroshot, open_classes
    from onevision_hf.jobs.progress import progress

    chosen = templates or (None if template else "photo")
    if chosen is not None and chosen not in TEMPLATES:
        raise ValueError(f"no templates {chosen!r}: choose one of {', '.join(TEMPLATES)}, or give --template")
    phrases = check_templates([*(TEMPLATES[chosen] if chosen else ()), *(template or [])])
    labelled = open_classes(folder, how.limit)
    opened = unified.open()
    with progress("named", len(labelled.pictures), silent=how.as_json) as step:
        found = measure_zeroshot(
            labelled,
            opened,
            templates=phrases,
            names=names,
            batch_size=batch_size,
            workers=how.workers,
            step=step,
        )
    top = next(name for name in found if name.startswith("top"))
    lines = [
        f"zero-shot {found['accuracy']:.1%}, among the {top[3:]} nearest {found[top]:.1%}; chance "
        f"{found['chance']:.1%}, the largest class {found['majority']:.1%}",
        f"{found['pictures']} pictures of {len(found['classes'])} classes, {len(phrases)} templates",
    ]
    rated = [(own["accuracy"], name) for name, own in found["classes"].items() if own["accuracy"] is not None]
    lines += [f"  {name}: {accuracy:.1%}" for accuracy, name in sorted(rated)[:10]]
    if len(rated) > 10:
        lines.append(f"  (the ten lowest of {len(rated)} classes)")
    print_figures({"model": unified.model, "folder": folder, **found}, lines, how.out, how.as_json)
