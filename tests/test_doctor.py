"""`onevision doctor` tells what is there by trying it, and what to do about what is not."""

import json

import pytest

from onevision_hf.cli import main
from onevision_hf.commands import doctor


@pytest.fixture(scope="module")
def report():
    return doctor.examine()


def test_what_works_was_tried(report):
    assert report["works"] and report["devices"]["cpu"]["works"]
    assert report["attention"]["sdpa"] == {"works": True} == report["attention"]["eager"]
    assert report["codecs"]["h264"] == {"decoder": True, "encoder": True, "signal": "vectors+residual"}
    assert report["codecs"]["vp9"]["signal"] == "difference"
    assert set(report["versions"]) >= {"onevision-hf", "torch", "av", "libavcodec"}


def test_what_is_missing_comes_with_the_line_that_installs_it(report, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "accelerate" else "99.0")
    extras = doctor.examine_extras()
    assert "accelerate" in extras["train"]["missing"] and "pyarrow" in extras["train"]["installed"]
    extras["dev"]["missing"] = ["ruff"]
    monkeypatch.setattr(doctor, "examine_extras", lambda: extras)
    monkeypatch.setattr(doctor, "try_codec", lambda *how: {"decoder": False, "encoder": False})
    monkeypatch.setattr(doctor, "_encode", lambda *how: None)  # tried once, in the report
    poorer = doctor.examine()
    assert "train: pip install 'onevision-hf[train]'" in poorer["advice"]
    assert not any(line.startswith("dev: ") for line in poorer["advice"])
    assert any(line.startswith("h264: this FFmpeg cannot decode it") for line in poorer["advice"])
    assert not poorer["works"] and "no decoder and no encoder" in doctor.describe(poorer)


def test_a_codec_without_an_encoder_or_with_a_broken_one_is_told():
    assert doctor.try_codec("h264", "no-such-encoder", "mp4") == {"decoder": True, "encoder": False}
    assert "error" in doctor.try_codec("h264", "libvpx", "mpegts")


def test_the_command_prints_for_people_and_for_scripts(report, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: report)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("devices", "attention", "codecs", "extras", "vectors+residual"))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    monkeypatch.setattr(doctor, "examine", lambda: report | {"works": False})
    assert main(["doctor"]) == 1
