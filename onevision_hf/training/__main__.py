"""accelerate launch -m onevision_hf.training --config cluster_smoke [--dry-run] [key=value ...]

`onevision train` in each process of a launcher.
"""

import os
import sys
from collections.abc import Sequence

from ..cli import main as onevision


def main(argv: Sequence[str] | None = None) -> int:
    """Run `onevision train` with the options `argv` (default: the process's) and return the exit status."""
    status = onevision(["train", *(sys.argv[1:] if argv is None else argv)])
    if status == 1:
        sys.stdout.flush()
        # Other threads and the process group may be waiting for what will not come.
        os._exit(1)
    return status


if __name__ == "__main__":
    sys.exit(main())
