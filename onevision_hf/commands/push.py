"""`onevision push FOLDER REPO_ID`: publish what was trained or converted, privately unless `--public`."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Argument as Arg
from typer import Option as Opt

from .options import Json


def run(
    folder: Annotated[
        str, Arg(metavar="FOLDER", help="a folder written by save_pretrained or `onevision convert`")
    ],
    repo_id: Annotated[
        str, Arg(metavar="REPO_ID", help="owner/name of the Hub repository; made when absent")
    ],
    public: Annotated[bool, Opt("--public", help="make it public (default: private)")] = False,
    revision: Annotated[
        str | None, Opt(metavar="NAME", help="branch to commit to, made when absent (default: main)")
    ] = None,
    tag: Annotated[str | None, Opt(metavar="NAME", help="tag to put on the commit")] = None,
    message: Annotated[str, Opt(metavar="TEXT", help="commit message")] = "Upload model",
    figures: Annotated[
        Path | None, Opt(metavar="FILE", help="JSON object of figures for a table in the card")
    ] = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="list the files and the card, upload nothing")] = False,
    as_json: Json = False,
) -> None:
    from onevision_hf.conversion.checkpoint import read_json
    from onevision_hf.conversion.hub import plan_upload, upload

    plan = plan_upload(folder, read_json(figures) if figures else None)
    result: dict[str, Any] = {
        "repo_id": repo_id,
        "private": not public,
        "revision": revision or "main",
        "tag": tag,
        "files": {name: path.stat().st_size for name, path in plan.files.items()}
        | {"README.md": len(plan.card.encode())},
        "skipped": plan.skipped,
        "bytes": plan.size,
    }
    if dry_run:
        result |= {"dry_run": True, "card": plan.card}
    else:
        result["commit"] = upload(
            plan, repo_id, private=not public, revision=revision, tag=tag, message=message
        )
    print(json.dumps(result) if as_json else _describe(result))


def _describe(result: dict[str, Any]) -> str:
    access = "private" if result["private"] else "public"
    tag = f", tag {result['tag']}" if result["tag"] else ""
    lines = [f"{result['repo_id']} ({access}), revision {result['revision']}{tag}"]
    lines += [f"  {size:>13,}  {name}" for name, size in result["files"].items()]
    lines += [f"  {'stays here':>13}  {name}" for name in result["skipped"]]
    lines.append(f"{len(result['files'])} files, {result['bytes']:,} bytes")
    if "card" in result:
        lines += ["nothing was uploaded (--dry-run); the card:", "", result["card"]]
    else:
        lines.append(result["commit"])
    return "\n".join(lines)
