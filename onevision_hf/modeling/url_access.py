"""Whether what is at http and https is fetched, and how much is waited for and taken: `UrlAccess`."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

# Seconds without a byte after which a server is given up.
SILENCE = 30.0


class UrlKwargs(TypedDict, total=False):
    """The settings of processors that `UrlAccess` is made of."""

    allow_urls: bool | None
    url_timeout: float | None
    max_url_bytes: int | None


@dataclass(frozen=True)
class UrlAccess:
    """Whether http and https URLs are fetched, and how much is waited for and taken.

    Args:
        allow_urls: False refuses them all.
        url_timeout: seconds that a server has to answer, that may pass without a byte, and in which at least
            1000 bytes a second must come.
        max_url_bytes: a longer video or image is refused; None: 16 GiB of a video, 256 MiB of an image.

    Raises:
        ValueError: no truth value, or a bound that is no positive number.
    """

    allow_urls: bool = True
    url_timeout: float = SILENCE
    max_url_bytes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.allow_urls, bool):
            raise ValueError(f"allow_urls must be True or False, not {self.allow_urls!r}")
        if not isinstance(self.url_timeout, numbers.Real) or not 0 < self.url_timeout < math.inf:
            raise ValueError(f"url_timeout must be a positive number of seconds, not {self.url_timeout!r}")
        most = self.max_url_bytes
        if most is not None and (not isinstance(most, numbers.Integral) or most < 1):
            raise ValueError(f"max_url_bytes must be a positive number of bytes, not {most!r}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], *owners: Any) -> "UrlAccess":
        """What a call says, else the first of the processors that has such a setting, else the default."""
        found = {}
        for name in URL_SETTINGS:
            values = [settings.get(name), *(getattr(owner, name, None) for owner in owners)]
            found[name] = next((value for value in values if value is not None), getattr(cls, name))
        return cls(**found)


URL_SETTINGS = tuple(UrlKwargs.__annotations__)
FETCHED = UrlAccess()  # what the caller names, within the usual bounds
