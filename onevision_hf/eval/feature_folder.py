"""A folder of features that `onevision encode FOLDER --out DIR` wrote, by the names of what was encoded.

    FeatureFolder("features")["beach/a.mp4"]["last_hidden_state"]

| file | |
|---|---|
| `features-00000.safetensors`, ... | `KEY/NAME` is the tensor NAME of the item KEY, its path in the folder |
| `index.json` | KEY -> `shard`, `kind`, `patches`, `signal`, and `missing` of a truncated clip |
| `rejected.jsonl` | what could not be read, with the reason |
| `digests.json`, `digests-00000.json`, ... | digests of all files: what is read was written, or is an error |

Nothing is padded: each item has its own number of patches.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..data.tensor_files import checked_rows
from ..jobs.run_folder import FinishedRun

STAGE, INDEX = "encode", "index.json"


class FeatureFolder(Mapping[str, dict[str, Tensor]]):
    """The features that `onevision encode FOLDER --out DIR` wrote, by the path of each file in that folder.

    `folder["beach/a.mp4"]` reads the tensors of one item and nothing else: `last_hidden_state` (K, D),
    `pooler_output` (D,) where the model has a head, `patch_positions` (K, 3) [t, h, w], `patch_times` (K,)
    seconds. No file is kept open, so an object can be copied to the workers of a data loader.

    Args:
        path: the folder.

    Attributes:
        index: key -> `shard`, `kind` ("image", "video"), `patches` (K), `signal` of a clip, and `missing`
            of one that is truncated.
        settings: what the folder was made with.

    Raises:
        ValueError: it holds something else, or is not finished. KeyError: no such item.
        DamagedError: a file is not what was written.
    """

    def __init__(self, path: str | Path):
        self._run = run = FinishedRun(path, STAGE)
        self.path, self.settings = run.path, run.settings
        self.index: dict[str, dict[str, Any]] = json.loads(run.file(INDEX).read_text(encoding="utf-8"))

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        entry = self.index[key]
        names = ["last_hidden_state", "patch_positions", "patch_times", "pooler_output"]
        shard = checked_rows(self._run, entry["shard"], {f"{key}/{name}": None for name in names})
        with safe_open(shard, "pt") as file:
            there = set(file.keys())
            return {name: file.get_tensor(f"{key}/{name}") for name in names if f"{key}/{name}" in there}

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"FeatureFolder({str(self.path)!r}: {len(self)} items)"
