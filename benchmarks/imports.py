"""What it costs to import the package, in processor time, beside transformers' own Auto classes.

    python benchmarks/imports.py
    python benchmarks/imports.py --runs 9

Each row is the median of processes that take turns with the others, so that a machine that slows down slows
all of them.
"""

import argparse
import os
import statistics
import subprocess
import sys

AUTO = "from transformers import AutoModel, AutoVideoProcessor"
ROWS = {
    "transformers' Auto classes": ["-c", f"{AUTO}; AutoModel, AutoVideoProcessor"],
    "our model and processor": ["-c", "from onevision_hf import OneVisionModel, OneVisionVideoProcessor"],
    "both": ["-c", f"import onevision_hf; {AUTO}; onevision_hf.OneVisionModel"],
    "import onevision_hf": ["-c", "import onevision_hf"],
    "onevision --help": ["-m", "onevision_hf.cli", "--help"],
    "python": ["-c", ""],
}


def seconds(arguments: list[str]) -> float:
    """Processor time of a Python process and its children."""
    # An installed package is read as bytecode; without it each process would compile ours.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each row, after one that is not counted")
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for run in range(args.runs + 1):
        for name, arguments in ROWS.items():
            taken = seconds(arguments)
            if run:
                found[name].append(taken)
    first = next(iter(ROWS))
    print("| | seconds | of transformers' |\n|---|---:|---:|")
    for name, times in found.items():
        ratio = statistics.median(own / its for own, its in zip(times, found[first], strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
