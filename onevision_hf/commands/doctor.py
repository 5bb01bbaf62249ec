"""`onevision doctor`: versions, devices, codecs, and what to install for the rest.

    onevision doctor
    onevision doctor --json

A few patches of the bundled clip are encoded on each device. The status is 1 when that cannot be done on the
processor.
"""

import json
from typing import Any

from .options import Json

# Extras that are not simply installed with the rest -> what to do; "": nothing, users need none of it.
APART = {
    "dev": "",
    "docs": "",
    "eval": "in an environment of its own, since lmms-eval wants av < 16: pip install '.[eval]' in a clone",
}


def run(as_json: Json = False) -> int:
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
