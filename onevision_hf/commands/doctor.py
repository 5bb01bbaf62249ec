"""`onevision doctor`: versions, devices, codecs, and what to install for the rest.

    onevision doctor
    onevision doctor --json
    onevision doctor --verify out/          # is what `onevision cluster run` left there still whole?

A few patches of the bundled clip are encoded on each device. The status is 1 when that cannot be done on the
processor. With `--verify` nothing else is looked at, and the status is 1 unless all is as it was written.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option as Opt

from .options import Json

# Extras that are not simply installed with the rest -> what to do; "": nothing, users need none of it.
APART = {
    "dev": "",
    "docs": "",
    "eval": "in an environment of its own, since lmms-eval wants av < 16: pip install '.[eval]' in a clone",
}


def run(
    verify: Annotated[
        Path | None,
        Opt(
            metavar="DIR",
            help="compare every file of the run folders in DIR with its SHA-256, and name those that differ, "
            "are missing or are left over",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    if verify is not None:
        report = verified(verify)
        print(json.dumps(report, indent=1) if as_json else describe_folders(report))
        return 0 if all(folder["state"] == "whole" for folder in report.values()) else 1

    from onevision_hf.installation import examine

    report = examine()
    print(json.dumps(report, indent=1) if as_json else describe(report))
    return 0 if report["works"] else 1


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["  ".join(f"{name} {version}" for name, version in report["versions"].items())]
    lines += [f"{device:<12}{state}" for device, state in report["devices"].items()]
    lines.append("decodes     " + ", ".join(codec for codec, there in report["codecs"].items() if there))
    for codec in (codec for codec, there in report["codecs"].items() if not there):
        lines.append(f"{codec:<12}this FFmpeg cannot decode it; PyAV's own wheels can: pip install av")
    for extra, names in report["missing"].items():
        advice = APART.get(extra, f"pip install '.[{extra}]' in a clone")
        if names and advice:
            lines.append(f"[{extra}]".ljust(12) + f"missing {', '.join(names)}: {advice}")
    return "\n".join(lines)


def verified(folder: Path) -> dict[str, dict[str, Any]]:
    """Each run folder in `folder` -> `state` (`whole`, `not whole`, `not finished`, `no digests`), `files`
    and `bytes` that were compared, `faults` (file -> what is wrong), and `again`, what to do about them.

    Raises:
        ValueError: there is none.
    """
    from onevision_hf.jobs.digests import examine, remedy
    from onevision_hf.jobs.progress import progress
    from onevision_hf.jobs.run_folder import PLAN, SUMMARY

    folders = [plan.parent for plan in sorted(folder.rglob(PLAN)) if _is_of_a_stage(plan)]
    if not folders:
        raise ValueError(f"{folder} is no run folder, and holds none (they have a {PLAN} of their stage)")
    report = {}
    for own in folders:
        with progress(str(own), sum(file.stat().st_size for file in own.iterdir() if file.is_file())) as step:
            found = examine(own, step)
        whole = "not whole" if found.faults else "whole" if found.known else "no digests"
        report[str(own)] = {
            "state": whole if found.known or (own / SUMMARY).exists() else "not finished",
            "files": found.files,
            "bytes": found.size,
            "faults": found.faults,
            "again": remedy(own),
        }
    return report


def _is_of_a_stage(plan: Path) -> bool:
    """Not drawn media, nor a cache, which grows for ever and whose files have their digests in themselves."""
    try:
        return json.loads(plan.read_bytes()).get("stage", "") not in ("", "probe-features", "motion clips")
    except (ValueError, AttributeError):
        return True  # a damaged one


def describe_folders(report: dict[str, dict[str, Any]]) -> str:
    """What `verified` found, for people."""
    from onevision_hf.view import readable_bytes

    means = {
        "not finished": "not finished: the same command goes on",
        "no digests": "no digests: it was finished by a version that wrote none",
    }
    lines = []
    for name, folder in report.items():
        state, size = means.get(folder["state"], folder["state"]), readable_bytes(folder["bytes"])
        lines.append(f"{name}: {state} ({folder['files']} files compared, {size})")
        lines += [f"  {file} {what}" for file, what in folder["faults"].items()]
        if any(not what.startswith("is left over") for what in folder["faults"].values()):
            lines.append(f"  {folder['again']}")
    return "\n".join(lines)
