"""The arguments of the model `onevision` in lmms-eval: which model, what it sees of a video, how it is run.

Settings.parse({"pretrained": "DIR", "sampling": "codec", "num_patches": 2048, "batch_size": "auto"})
"""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...jobs.run_folder import digest_of

SAMPLINGS = ("codec", "frames", "dense")
ON_ERROR = ("wrong", "skip", "stop")
# The published budgets: 64 frames looked at for a selection; 8 whole frames, or all of the 64.
DEFAULT_FRAMES = {"codec": 64, "frames": 8, "dense": 64}
# What lmms-eval passes to every model beside model_args.
IGNORED = ("max_batch_size",)


@dataclass(frozen=True)
class Settings:
    """What `--model_args` takes.

    Attributes:
        pretrained: a folder or a Hub name of a multimodal model.
        sampling: "codec", patches that the codec says matter; "frames", whole frames; "dense", every patch
            of as many frames as the codec would look at.
        num_frames: frames sampled of a video; 64, and 8 of "frames".
        num_patches, keep_ratio: the budget of "codec", one of them; the processor's own where neither is
            given.
        preset: which signals of the codec count.
        max_pixels: images and frames larger than this are made smaller.
        device: "cuda" or "cpu"; the GPU of this process where there is one.
        dtype: of the weights; "auto" takes the checkpoint's.
        attn_implementation: as in transformers.
        batch_size: at most so many prompts at once, or "auto": as many as the token budget allows.
        token_budget: tokens of a batch, padding included; a longer prompt goes alone.
        max_new_tokens: a limit below the task's own, for quick looks.
        on_error: what becomes of a question whose media are broken: "wrong", "skip" or "stop".
        journal: the folder of answers; "none" keeps none. By default one below HF_HOME.
        feature_cache_mb: of the device's memory, for features of clips that are asked of again.
        workers: threads that read and select.
    """

    pretrained: str
    sampling: str = "codec"
    num_frames: int | None = None
    num_patches: int | None = None
    keep_ratio: float | None = None
    preset: str | None = None
    max_pixels: int | None = None
    device: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    batch_size: int | None = None
    token_budget: int = 16384
    max_new_tokens: int | None = None
    on_error: str = "wrong"
    journal: str | None = None
    feature_cache_mb: int = 1024
    workers: int = 2

    def __post_init__(self) -> None:
        for name, allowed in (("sampling", SAMPLINGS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        for name in (
            "num_frames", "num_patches", "max_pixels", "batch_size", "token_budget", "max_new_tokens",
            "workers",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is a positive whole number, found {value!r}")
        if not isinstance(self.feature_cache_mb, int) or self.feature_cache_mb < 0:
            raise ValueError(f"feature_cache_mb is a whole number from 0 on, found {self.feature_cache_mb!r}")
        if self.num_patches is not None and self.keep_ratio is not None:
            raise ValueError("give num_patches or keep_ratio, not both: they are one budget")
        if self.sampling != "codec":
            given = [n for n in ("num_patches", "keep_ratio", "preset") if getattr(self, n) is not None]
            if given:
                raise ValueError(
                    f"{given[0]} is a setting of sampling=codec; sampling={self.sampling} keeps whole "
                    "frames: give num_frames"
                )

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> "Settings":
        """From what lmms-eval read of the command line.

        Raises:
            ValueError: an argument that does not exist (the nearest one is named), a value out of range, or
                no `pretrained`.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        given = {name: value for name, value in arguments.items() if name not in IGNORED}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(
                    f"the model onevision takes no argument {name!r}{hint} It takes {', '.join(known)}"
                )
        if not given.get("pretrained"):
            raise ValueError(
                "give pretrained=DIR: the folder of a multimodal model (`onevision assemble` makes one)"
            )
        given["pretrained"] = os.fspath(given["pretrained"])
        size = given.get("batch_size")
        if size is not None:
            if not str(size).isdigit() and size != "auto":
                raise ValueError(f'batch_size is a whole number or "auto", found {size!r}')
            given["batch_size"] = None if size == "auto" else int(size)
        return cls(**given)

    def of_media(self) -> dict[str, Any]:
        """Settings of the processor: what is seen of images and videos."""
        chosen = {
            "video_mode": "codec" if self.sampling == "codec" else "frames",
            "num_frames": self.num_frames or DEFAULT_FRAMES[self.sampling],
            "num_patches": self.num_patches,
            "keep_ratio": self.keep_ratio,
            "preset": self.preset,
            "max_pixels": self.max_pixels,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def of_answers(self) -> dict[str, Any]:
        """What may change an answer beside the model's files: part of the journal's key."""
        return {**self.of_media(), "dtype": self.dtype, "attn_implementation": self.attn_implementation}

    def journal_folder(self, fingerprint: str) -> Path | None:
        """Where answers go; the default is a folder for each model and each way of seeing media."""
        if self.journal == "none":
            return None
        if self.journal is not None:
            return Path(self.journal)
        home = os.environ.get("HF_HOME", os.path.join(os.path.expanduser("~"), ".cache", "huggingface"))
        seen = digest_of([fingerprint, self.of_answers()])
        return Path(home) / "onevision-answers" / seen[:16]
