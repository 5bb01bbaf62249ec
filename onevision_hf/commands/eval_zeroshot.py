"""`onevision eval zeroshot DIR --model M`: name pictures by the nearest text.

onevision eval zeroshot imagenet/val --model M --names classes.json --templates simple
onevision eval zeroshot drawn --model M --templates name --template "a plain {}" --template "a striped {}"
"""

import argparse

from .unified_options import add_common, add_model, check_common, finish


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder of pictures for each class")
    add_model(parser)
    parser.add_argument("--names", metavar="FILE", help='JSON: {"folder": "name" or ["name", ...], ...}')
    parser.add_argument(
        "--templates",
        default=None,
        metavar="SET",
        help="name ({}), photo (a photo of a {}.), simple (seven); default: photo, or none beside --template",
    )
    parser.add_argument("--template", action="append", default=[], metavar="TEXT", help="one more, with {}")
    add_common(parser, batch_size=64)


def run(args: argparse.Namespace) -> None:
    check_common(args)
    from ..eval.unified.models import open_model
    from ..eval.unified.zeroshot import TEMPLATES, check_templates, measure_zeroshot, open_classes
    from ..jobs.progress import progress

    chosen = args.templates or (None if args.template else "photo")
    if chosen is not None and chosen not in TEMPLATES:
        raise ValueError(f"no templates {chosen!r}: choose one of {', '.join(TEMPLATES)}, or give --template")
    templates = check_templates([*(TEMPLATES[chosen] if chosen else ()), *args.template])
    labelled = open_classes(args.folder, args.limit)
    opened = open_model(args.model, device=args.device, vae=args.vae, size=args.size)
    with progress("named", len(labelled.pictures), silent=args.json) as step:
        found = measure_zeroshot(
            labelled,
            opened,
            templates=templates,
            names=args.names,
            batch_size=args.batch_size,
            workers=args.workers,
            step=step,
        )
    top = next(name for name in found if name.startswith("top"))
    lines = [
        f"zero-shot {found['accuracy']:.1%}, among the {top[3:]} nearest {found[top]:.1%}; chance "
        f"{found['chance']:.1%}, the largest class {found['majority']:.1%}",
        f"{found['pictures']} pictures of {len(found['classes'])} classes, {len(templates)} templates",
    ]
    rated = [(own["accuracy"], name) for name, own in found["classes"].items() if own["accuracy"] is not None]
    lines += [f"  {name}: {accuracy:.1%}" for accuracy, name in sorted(rated)[:10]]
    if len(rated) > 10:
        lines.append(f"  (the ten lowest of {len(rated)} classes)")
    finish(args, {"model": args.model, "folder": args.folder, **found}, lines)
