"""Does training still do what it did? 50 steps of `onevision_tiny` on committed shards, against a record.

    make tiny-check
    python scripts/check_tiny.py --record    # after a change that is meant to change them

Sixty-four drawn clips with their labels are in tests/fixtures/onevision_tiny: no encoder, no clustering is
between them and the losses, only the decoder, the selection, the model, the objective and the optimizer.
Float32 on one thread; a relative difference above 1e-3 fails, and what is installed otherwise is named.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import av
import torch

from onevision_hf.training.config import load_config
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "onevision_tiny"
STEPS, TOLERANCE = 50, 1e-3


def losses(steps: int = STEPS) -> dict[str, list[float]]:
    """head -> its loss at every fifth step."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"cluster.heads.{head}.source={FIXTURE / head}" for head in ("object", "motion")]
        given += [
            f"out={folder}/run",
            f"cluster.heads.object.cache={folder}/cache",
            "device=cpu",
            "dataloader_num_workers=0",
        ]
        given += ["optim.precision=float32", "cluster.heads.object.batch_size=16", "logging_steps=5"]
        trainer = Trainer(load_config("onevision_tiny", given), max_steps=steps)
        trainer.fit()
        lines = read_lines(trainer.out / "log.jsonl")
    return {head: [line[f"{head}/loss"] for line in lines] for head in ("object", "motion")}


def environment() -> dict[str, str]:
    """What the losses may depend on besides the code."""
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "PyAV": av.__version__,
        "libavcodec": library,
        "torch": torch.__version__,
        "CPU": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def differences(found: dict[str, list[float]], recorded: dict[str, list[float]]) -> list[str]:
    """A line for each loss that is further away than the tolerance."""
    return [
        f"{head}, step {5 * (place + 1)}: {now:.6f}, recorded {then:.6f} ({abs(now / then - 1):.1e} off)"
        for head, values in recorded.items()
        for place, (now, then) in enumerate(zip(found[head], values, strict=False))
        if not abs(now / then - 1) <= TOLERANCE
    ]


def explain(recorded: dict[str, str], now: dict[str, str]) -> str:
    other = [f"{name} {recorded[name]} then, {now[name]} now" for name in now if now[name] != recorded[name]]
    if other:
        return "not the same as when they were recorded: " + "; ".join(other)
    return "PyAV, torch and the kind of CPU are those of the record: the code has changed what it computes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the losses instead of comparing them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path, found = FIXTURE / "losses.json", losses()
    if args.record:
        path.write_text(json.dumps({"environment": environment(), "losses": found}, indent=1) + "\n")
        print(f"{path}: {STEPS} steps recorded")
        return
    record = json.loads(path.read_text())
    if wrong := differences(found, record["losses"]):
        sys.exit("\n".join([*wrong, explain(record["environment"], environment())]))
    last = {head: round(values[-1], 4) for head, values in found.items()}
    print(f"{STEPS} steps: all losses within {TOLERANCE:g} of the record; the last are {last}")


if __name__ == "__main__":
    main()
