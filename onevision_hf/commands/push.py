"""`onevision push FOLDER REPO_ID`: publish what was trained or converted, privately unless told otherwise."""

import argparse
import json
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="a folder written by save_pretrained or `onevision convert`"
    )
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="owner/name of the Hub repository; made when absent"
    )
    parser.add_argument("--public", action="store_true", help="make it public (default: private)")
    parser.add_argument("--revision", help="branch to commit to, made when absent (default: main)")
    parser.add_argument("--tag", help="tag to put on the commit")
    parser.add_argument("--message", default="Upload model", help="commit message")
    parser.add_argument("--figures", type=Path, help="JSON object of figures for a table in the card")
    parser.add_argument("--dry-run", action="store_true", help="list the files and the card, upload nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    from onevision_hf.conversion.checkpoint import read_json
    from onevision_hf.conversion.hub import plan_upload, upload

    plan = plan_upload(args.folder, read_json(args.figures) if args.figures else None)
    result = {
        "repo_id": args.repo_id,
        "private": not args.public,
        "revision": args.revision or "main",
        "tag": args.tag,
        "files": {name: path.stat().st_size for name, path in plan.files.items()}
        | {"README.md": len(plan.card.encode())},
        "skipped": plan.skipped,
        "bytes": plan.size,
    }
    if args.dry_run:
        result |= {"dry_run": True, "card": plan.card}
    else:
        result["commit"] = upload(
            plan,
            args.repo_id,
            private=not args.public,
            revision=args.revision,
            tag=args.tag,
            message=args.message,
        )
    print(json.dumps(result) if args.json else describe(result))


def describe(result: dict) -> str:
    """The result as lines for a person."""
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
