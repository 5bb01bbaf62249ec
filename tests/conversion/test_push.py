"""`onevision push` against a stub of the Hub: what arrives, byte by byte, and what is refused.

Run: python -m pytest tests/conversion/test_push.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stub import HubStub, hub_stub
from huggingface_hub import HfApi, ModelCard, constants

from onevision_hf import OpenVision3Config, OpenVision3ImageProcessor, OpenVision3Model
from onevision_hf.cli import main
from onevision_hf.conversion.card import with_figures
from onevision_hf.conversion.hub import plan_upload, upload

REPOSITORY = "someone/tower"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with hub_stub() as stub:
        # What HF_ENDPOINT, HF_TOKEN, HF_HUB_DISABLE_XET and HF_HUB_OFFLINE set when the library is imported.
        monkeypatch.setattr(constants, "ENDPOINT", stub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield stub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "trained"
    OpenVision3Model(OpenVision3Config.tiny()).save_pretrained(folder)
    OpenVision3ImageProcessor().save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"moments")
    (folder / ".env").write_text("HF_TOKEN=secret")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "modeling.py").write_text("")
    (folder / "curves").mkdir()
    (folder / "curves" / "loss.json").write_text("[3, 2, 1]")
    return folder


def local(folder: Path, names: set[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


UPLOADED = {
    "channel_order.py",
    "complete_weights.py",
    "config.json",
    "configuration_openvision3.py",
    "curves/loss.json",
    "image_processing_openvision3.py",
    "known_names.py",
    "model.safetensors",
    "modeling_openvision3.py",
    "preprocessor_config.json",
    "remote_file.py",
    "setting_names.py",
    "tensor_inputs.py",
    "url_access.py",
    "vae_openvision3.py",
}


def test_every_byte_of_weights_code_and_processor_arrives_in_a_private_repository(
    hub, folder, tmp_path, capsys
):
    (tmp_path / "figures.json").write_text(json.dumps({"probe": {"top-1": 71.25}, "rFID": 0.5}))
    arguments = ["push", str(folder), REPOSITORY, "--figures", str(tmp_path / "figures.json"), "--json"]
    assert main([*arguments, "--tag", "v1", "--message", "First weights"]) == 0
    result = json.loads(capsys.readouterr().out)
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    arrived = dict(repository.branches["main"])
    card = arrived.pop("README.md").decode()
    assert arrived == local(folder, UPLOADED)
    assert not (folder / "README.md").exists()
    assert "| probe / top-1 | 71.25 |" in card and "| rFID | 0.5 |" in card
    assert ModelCard(card).data.library_name == "transformers"
    [(commit, (branch, message))] = repository.commits.items()
    assert (branch, message) == ("main", "First weights") and result["commit"].endswith(commit)
    assert repository.tags == {"v1": commit}
    assert hub.tokens == {"Bearer hf_of_a_test"}
    assert set(result["skipped"]) == {"optimizer.pt", ".env", "__pycache__/modeling.py"}


def test_a_dry_run_lists_files_and_card_and_asks_the_hub_nothing(hub, folder, capsys):
    arguments = ["push", str(folder), REPOSITORY, "--dry-run", "--tag", "v1", "--revision", "trial"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert hub.requests == [] and hub.repositories == {}
    assert f"{REPOSITORY} (private), revision trial, tag v1" in printed
    for name in UPLOADED:
        assert name in printed
    assert "stays here  optimizer.pt" in printed and "license: other" in printed
    assert "nothing was uploaded" in printed


def test_a_revision_is_a_branch_that_leaves_main_alone(hub, folder, capsys):
    assert main(["push", str(folder), REPOSITORY]) == 0
    before = dict(hub.repositories[REPOSITORY].branches["main"])
    (folder / "curves" / "loss.json").write_text("[1]")
    for _ in range(2):  # the branch is made once and then found
        assert main(["push", str(folder), REPOSITORY, "--revision", "trial"]) == 0
    branches = hub.repositories[REPOSITORY].branches
    assert branches["main"] == before and branches["trial"]["curves/loss.json"] == b"[1]"
    assert f"{REPOSITORY} (private), revision trial" in capsys.readouterr().out


def test_a_public_repository_is_written_only_when_that_is_said(hub, folder, capsys):
    assert main(["push", str(folder), REPOSITORY, "--public"]) == 0
    repository = hub.repositories[REPOSITORY]
    assert not repository.private and len(repository.commits) == 1
    assert main(["push", str(folder), REPOSITORY]) == 1
    assert "exists and is public: pass --public" in capsys.readouterr().err
    assert len(repository.commits) == 1


def test_a_token_that_may_write_and_not_create_is_enough_for_a_repository_that_exists(hub, folder, capsys):
    assert main(["push", str(folder), REPOSITORY]) == 0
    hub.refuse_creation = True
    assert main(["push", str(folder), REPOSITORY, "--message", "again"]) == 0
    assert main(["push", str(folder), "someone/else"]) == 1
    assert "403" in capsys.readouterr().err


def test_a_tag_that_fails_is_told_apart_from_the_upload(hub, folder):
    hub.refuse_tags = True
    with pytest.raises(OSError, match="is uploaded, its tag 'v1' is not"):
        upload(plan_upload(folder), REPOSITORY, tag="v1", api=HfApi(endpoint=hub.address))
    assert hub.repositories[REPOSITORY].branches["main"].keys() >= UPLOADED


@pytest.mark.slow
def test_the_environment_of_the_command_is_the_hub_librarys_own(folder):
    with hub_stub() as stub:
        environment = os.environ | {
            "HF_ENDPOINT": stub.address,
            "HF_TOKEN": "hf_of_a_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-m", "onevision_hf.cli", "push", str(folder), REPOSITORY]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        arrived = dict(stub.repositories[REPOSITORY].branches["main"])
        del arrived["README.md"]
        assert arrived == local(folder, UPLOADED)
        assert f"{stub.address}/{REPOSITORY}/commit/" in result.stdout


def test_a_card_in_the_folder_is_kept_and_only_its_figures_are_replaced(folder):
    card = "---\nlicense: mit\n---\n# Mine\n\nWords.\n\n## Figures\n\n| old | 1 |\n\n## Use\n\nMore words.\n"
    (folder / "README.md").write_text(card)
    assert plan_upload(folder).card == card
    found = plan_upload(folder, {"new": 2}).card
    assert "old" not in found and "| new | 2 |" in found
    assert found.startswith("---\nlicense: mit\n---\n# Mine\n\nWords.\n") and "## Use\n\nMore words." in found
    assert with_figures(found, {"new": 2}) == found


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda folder: (folder / "modeling_openvision3.py").unlink(),
            "auto_map names modeling_openvision3.py",
        ),
        (
            lambda folder: change_config(folder, auto_map={}, model_type="new"),
            "has no auto_map, .* type 'new'",
        ),
    ],
)
def test_a_folder_that_nobody_could_load_is_refused_before_anything_is_sent(
    hub, folder, spoil, message, capsys
):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        plan_upload(folder)
    assert main(["push", str(folder), REPOSITORY]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert hub.requests == []


def test_what_cannot_be_reached_or_is_no_figure_ends_with_one_line(folder, tmp_path, capsys):
    assert main(["push", str(tmp_path / "absent"), REPOSITORY]) == 1
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "figures.json").write_text('{"curve": [1, 2]}')
    assert (
        main(["push", str(folder), REPOSITORY, "--dry-run", "--figures", str(tmp_path / "figures.json")]) == 1
    )
    assert "the figure curve is a list" in capsys.readouterr().err
