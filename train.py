"""Train in a clone: accelerate launch train.py --config cluster_smoke [--dry-run] [key=value ...]"""

import sys

from onevision_hf.training.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
