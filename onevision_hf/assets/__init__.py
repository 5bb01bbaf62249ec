"""Files that travel with the package."""

from pathlib import Path

TINY = "tiny"


def bundled_clip() -> Path:
    """The path of the bundled clip: four seconds, 640 x 360, H.264 with B-pictures, drawn by this project.

    `scripts/draw_bundled_clip.py` in the repository draws it. The command line knows it as `bundled`.
    """
    return Path(__file__).with_name("valley.mp4")


def tiny() -> Path:
    """The folder of onevision-tiny: the trained encoder that comes with the package, with its processors.

        folder = onevision_hf.tiny()
        model = OneVisionModel.from_pretrained(folder).eval()
        processor = OneVisionVideoProcessor.from_pretrained(folder)

    `scripts/train_tiny.py` in the repository trains it (docs/onevision-tiny.md). The command line knows it as
    `--model tiny`.
    """
    return Path(__file__).with_name("onevision-tiny")


def model_folder(word: str) -> str:
    """What a `--model` names: `tiny` is the folder of `tiny()`, anything else is itself. A folder of that
    name is ./tiny.

    Raises:
        FileNotFoundError: it can only be a folder, and there is none.
    """
    if word == TINY:
        return str(tiny())
    is_path = word.count("/") > 1 or word.startswith((".", "/", "~")) or "\\" in word
    if is_path and not Path(word).exists():
        raise FileNotFoundError(f"{word}: no such model folder (a name on the Hub is OWNER/NAME)")
    return word


def clip_path(word: str) -> Path:
    """The path that a CLIP names: `bundled` is the package's clip, anything else itself. A file so named is
    ./bundled."""
    return bundled_clip() if word == "bundled" else Path(word)
