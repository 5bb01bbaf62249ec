"""Features of media that were encoded, least recently used first out, never more than so many bytes.

cache = EncodedMedia(limit=1 << 30)
cache.put("clip.mp4", embeddings)
cache.get("clip.mp4")
"""

from collections import OrderedDict

from torch import Tensor


class EncodedMedia:
    """Tensors by key.

    Args:
        limit: bytes; a tensor larger than that is not kept.

    Attributes: `size` (bytes held), `hits`, `misses`.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = self.hits = self.misses = 0
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> Tensor | None:
        found = self._held.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return found

    def put(self, key: str, features: Tensor) -> None:
        """Keep `features`, which must own its memory: a view would keep all that it is a view of."""
        self._drop(key)
        if features.nbytes > self.limit:
            return
        self._held[key] = features
        self.size += features.nbytes
        while self.size > self.limit:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        old = self._held.pop(key, None)
        if old is not None:
            self.size -= old.nbytes
