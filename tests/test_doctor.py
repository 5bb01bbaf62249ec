"""`onevision doctor` tells what is there by trying it, and what to do about what is not."""

import json

import pytest

from onevision_hf import installation
from onevision_hf.cli import main
from onevision_hf.commands import doctor


@pytest.fixture(scope="module")
def report():
    return installation.examine()


def test_what_works_was_tried(report):
    assert report["works"] and report["devices"]["cpu"] == "works"
    assert report["codecs"]["h264"] is report["codecs"]["vp9"] is True
    assert set(report["versions"]) >= {"onevision-hf", "torch", "av", "libavcodec"}


def test_what_is_missing_comes_with_the_line_that_installs_it(report, monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: None if name == "accelerate" else "99.0")
    missing = installation.missing_of_extras()
    assert "accelerate" in missing["train"] and "pyarrow" not in missing["train"]
    assert any("(found 99.0)" in name for name in missing["eval"])  # lmms-eval is pinned
    poorer = report | {"missing": missing | {"dev": ["ruff"]}, "codecs": report["codecs"] | {"av1": False}}
    lines = doctor.describe(poorer).splitlines()
    assert any("accelerate" in line and line.endswith("pip install '.[train]' in a clone") for line in lines)
    assert not any("ruff" in line for line in lines)
    assert any(line.startswith("av1 ") and "pip install av" in line for line in lines)


def test_a_device_that_fails_says_why_and_the_status_is_1(report, monkeypatch, capsys):
    assert "nowhere" in installation.try_device("nowhere")
    monkeypatch.setattr(installation, "try_device", lambda device: "no such instruction")
    broken = installation.examine()
    assert broken["works"] is False and broken["devices"]["cpu"] == "no such instruction"


def test_the_command_prints_for_people_and_for_scripts(report, monkeypatch, capsys):
    monkeypatch.setattr(installation, "examine", lambda: report)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("cpu", "works", "decodes", "h264", "torch"))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    monkeypatch.setattr(installation, "examine", lambda: report | {"works": False})
    assert main(["doctor"]) == 1
