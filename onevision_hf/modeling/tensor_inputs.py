"""What a model is given must be tensors; anything else is refused with what to do about it."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_tensors(**given: Any) -> None:
    """Raise TypeError for an input that is no tensor; None is none. Types are looked at and nothing else, so
    it costs nothing and a compiled graph does not break on it."""
    for name, value in given.items():
        if value is None or isinstance(value, Tensor):
            continue
        kind = type(value).__name__
        if isinstance(value, Mapping):
            raise TypeError(
                f"{name} is a {kind} with {', '.join(map(str, value))}: spread it over the arguments, "
                "model(**inputs)"
            )
        if isinstance(value, str | bytes | os.PathLike) or hasattr(value, "convert"):
            raise TypeError(
                f"{name} is a {kind}, and the model reads no media: its processor does, "
                'model(**processor(media, return_tensors="pt"))'
            )
        raise TypeError(
            f'{name} is a {kind}, the model takes tensors: call the processor with return_tensors="pt"'
        )


__all__ = ["check_tensors"]
