"""A trained or converted folder to a Hub repository: weights, code, processors, and a card with figures.

plan = plan_upload("out/base", figures={"ImageNet top-1": 71.3})
upload(plan, "me/openvision3-base", tag="v1")
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from onevision_hf.conversion.card import trained_card, with_figures
from onevision_hf.conversion.checkpoint import read_json

# What a model repository is made of. Everything else (optimizer states, logs, caches, pickles) stays at home.
SUFFIXES = {
    ".safetensors",
    ".json",
    ".py",
    ".md",
    ".txt",
    ".jinja",
    ".model",
    ".yaml",
    ".png",
    ".jpg",
    ".gif",
}
CARD = "README.md"


@dataclass(frozen=True)
class Plan:
    """What would be uploaded.

    Attributes:
        files: name in the repository -> file; the card is not among them.
        skipped: files of the folder that stay at home.
        card: the text of README.md as it would be uploaded.
    """

    folder: Path
    files: dict[str, Path]
    skipped: list[str]
    card: str

    @property
    def size(self) -> int:
        """Bytes of all files and the card."""
        return sum(path.stat().st_size for path in self.files.values()) + len(self.card.encode())


def plan_upload(folder: str | os.PathLike[str], figures: Mapping[str, Any] | None = None) -> Plan:
    """Collect what `folder` has to publish and write its card, without touching the folder or the network.

    `figures` (names to numbers or texts, nested as they come) become a table of the card. Raises ValueError
    for a folder without configuration or weights, or whose `auto_map` names code that is not in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{folder} holds no config.json: save a model there with save_pretrained")
    config = read_json(config_path)
    files, skipped = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__")) for part in name.parts)
        if path.is_file() and name.as_posix() != CARD:
            if path.suffix in SUFFIXES and not hidden:
                files[name.as_posix()] = path
            else:
                skipped.append(name.as_posix())
    if not any(name.endswith(".safetensors") and "/" not in name for name in files):
        raise ValueError(
            f"{folder} holds no weights (*.safetensors): save a model there with save_pretrained"
        )
    check_code(folder, config, files)
    card_path = folder / CARD
    card = card_path.read_text(encoding="utf-8") if card_path.is_file() else trained_card(config)
    return Plan(folder, files, skipped, with_figures(card, figures) if figures else card)


def check_code(folder: Path, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Check that a folder loads anywhere: a type of transformers, or its code inside.

    Args:
        folder: its path, for the error.
        config: its `config.json`.
        files: name -> path of what it holds.

    Raises:
        ValueError: code is named that is not there, or none is named and none is in transformers.
    """
    auto_map: dict[str, Any] = {}
    for name in files:
        if name.endswith("config.json"):
            auto_map |= read_json(files[name]).get("auto_map") or {}
    references = {
        name.split("--")[-1].split(".")[0] + ".py" for name in auto_map.values() if "--" not in name
    }
    absent = sorted(references - set(files))
    if absent:
        raise ValueError(
            f"{folder}: auto_map names {', '.join(absent)}, not in the folder: save the model again"
        )
    if config.get("model_type") not in CONFIG_MAPPING_NAMES and not config.get("auto_map"):
        raise ValueError(
            f"{folder}: config.json has no auto_map, so nobody without this package could load model type "
            f"{config.get('model_type')!r}: load and save it with onevision_hf, which writes the code "
            "beside the weights"
        )


def upload(
    plan: Plan,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload model",
    api: HfApi | None = None,
) -> str:
    """Upload a plan in one commit.

    Args:
        plan: the files, and the card.
        repo_id: made when it does not exist.
        private: False lets a repository be public; without it a public one is refused.
        revision: the branch, made when absent.
        tag: then points at the commit.
        message: of the commit.
        api: of the Hub; the default one.

    Returns:
        the commit's address.

    Raises:
        ValueError: the repository is public.
        OSError: what the Hub raises.
    """
    api = api or HfApi()
    try:
        api.create_repo(repo_id, private=private)
    except HfHubHTTPError as error:
        # It exists (409), or this token may write to it and not create it.
        if error.response.status_code not in (401, 403, 409):
            raise
        try:
            public = api.repo_info(repo_id).private is False
        except HfHubHTTPError:
            raise error from None
        if private and public:
            raise ValueError(f"{repo_id} exists and is public: pass --public to publish there") from None
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    operations = [
        CommitOperationAdd(name, path if name != CARD else plan.card.encode())
        for name, path in (plan.files | {CARD: plan.folder}).items()
    ]
    commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    if tag is not None:
        try:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
        except HfHubHTTPError as error:
            raise OSError(f"{commit.commit_url} is uploaded, its tag {tag!r} is not: {error}") from error
    return commit.commit_url
