"""Loading that refuses a folder whose weights are missing, instead of drawing random ones.

OneVisionModel.from_pretrained(folder)                           # all its weights, or a ValueError
OneVisionModel.from_pretrained(folder, allow_missing=True)       # the missing ones are random
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_held: ContextVar[list[logging.LogRecord] | None] = ContextVar("held", default=None)
_REPORTER = logging.getLogger("transformers.modeling_utils")
_LOGGER = logging.getLogger("transformers.onevision_hf")  # beneath transformers', whose level counts


class CompleteWeights:
    """A model whose `from_pretrained` takes complete folders. What counts as missing is what transformers
    says: tied weights and those that a class ignores do not.
    """

    # Regular expressions of weights that a class adds on what it is trained from.
    may_be_new: tuple[str, ...] = ()
    # Whether a folder may hold weights that the class has no place for; it is said.
    may_hold_others = True

    @classmethod
    def named_otherwise(cls, unexpected: list[str]) -> Any:
        """The class of the same network for folders with these weights, whose names are not of this one."""
        return None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        allow_missing: bool = False,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """transformers' own.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            *args: transformers' own.
            allow_missing: weights that the folder lacks are drawn at random.
            output_loading_info: give the model and what transformers found.
            ignore_mismatched_sizes: weights of another size than the model's are drawn at random.
            **kwargs: transformers' own.

        Raises:
            ValueError: weights are missing, or others are there where the class knows all that there are;
                they are listed.
            RuntimeError: weights are of another size; likewise.
        """
        source = pretrained_model_name_or_path
        loader: Any = super()
        how = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        with _report_held_back() as held:
            model, found = loader.from_pretrained(source, *args, **how)
            held.clear()
        missing = sorted(found["missing_keys"])
        lacking = [key for key in missing if not any(re.search(new, key) for new in cls.may_be_new)]
        left = sorted(found["unexpected_keys"])
        others = f"it holds {len(left)} that {cls.__name__} has no place for: {', '.join(left)}"
        other = cls.named_otherwise(left) if lacking else None
        if other is not None:
            how = {"allow_missing": allow_missing, "output_loading_info": output_loading_info}
            sizes = {"ignore_mismatched_sizes": ignore_mismatched_sizes}
            return other.from_pretrained(source, *args, **how, **sizes, **kwargs)
        if lacking and not allow_missing:
            raise ValueError(
                f"{source} lacks {len(lacking)} weights of {cls.__name__}: {', '.join(lacking)}"
                f"{'; ' + others if left else ''}. allow_missing=True draws them at random"
            )
        if left and not (cls.may_hold_others or allow_missing):
            raise ValueError(
                f"{source} is not the model that {cls.__name__} knows: {others}. allow_missing=True leaves "
                "them out"
            )
        unfit = sorted(
            f"{name} is {tuple(has)}, the model's {tuple(wanted)}"
            for name, has, wanted in found["mismatched_keys"]
        )
        if unfit and not ignore_mismatched_sizes:
            raise RuntimeError(
                f"{source}: size mismatch of {len(unfit)} weights of {cls.__name__}: {'; '.join(unfit)}. "
                "ignore_mismatched_sizes=True draws them at random"
            )
        missing += unfit
        if missing:
            _LOGGER.warning("%s: new in %s, drawn at random: %s", source, cls.__name__, ", ".join(missing))
        if left:
            _LOGGER.warning("%s: %s", source, others)
        return (model, found) if output_loading_info else model


@contextmanager
def _report_held_back() -> Iterator[list[logging.LogRecord]]:
    """Within, transformers' table of missing and unexpected weights is kept back; what is in the list at the
    end is said."""
    _REPORTER.addFilter(_hold)  # a second time changes nothing
    held: list[logging.LogRecord] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)
        for record in held:
            _REPORTER.handle(record)


def _hold(record: logging.LogRecord) -> bool:
    held = _held.get()
    if held is None or "LOAD REPORT" not in record.getMessage():
        return True
    held.append(record)
    return False


__all__ = ["CompleteWeights"]
