"""The command `onevision`: what it prints, writes and returns, for good input and for bad."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from clips import moving_scene, write_audio, write_clip
from command_line import every_command, parse
from PIL import Image
from processes import fresh
from safetensors import safe_open
from safetensors.torch import load_file

from onevision_hf import OneVisionConfig, OneVisionModel, OneVisionVideoProcessor, bundled_clip, tiny
from onevision_hf.cli import COMMANDS, in_red, main
from onevision_hf.commands import options, synth


@pytest.fixture
def onevision(capsys):
    """Run the command in this process: (status, standard output, standard error)."""

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(7)
    OneVisionModel(OneVisionConfig.tiny()).save_pretrained(folder)
    return folder


def test_encode_works_on_the_bundled_clip_with_the_encoder_in_the_package(onevision):
    status, out, err = onevision("encode", "bundled", "--num-frames", 4)
    assert status == 0 and err == ""
    for figure in (
        "120 frames of 640 x 360",
        "4 frames sampled",
        "64 of 256 kept (25.0 %), 8 x 8 pixels each",
        "pooler_output (1, 192)",
    ):
        assert figure in out
    for stage in ("read", "patchify", "encode"):
        assert stage in out.split("seconds")[1]


def test_encode_json_is_one_document_with_the_figures(onevision, clip):
    status, out, _ = onevision("encode", clip, "--num-frames", 6, "--num-patches", 300, "--json")
    report = json.loads(out)
    (entry,) = report["clips"]
    assert status == 0 and report["errors"] == report["notes"] == [] and report["model"] == "tiny"
    assert entry["frames"] == 48 and entry["frames_sampled"] == 6 and entry["patches_kept"] == 300
    assert entry["outputs"] == {"last_hidden_state": [1, 300, 192], "pooler_output": [1, 192]}
    assert entry["share"] == pytest.approx(300 / entry["patches"]) and set(entry["seconds"]) >= {
        "patchify",
        "encode",
    }


def test_encode_writes_what_the_model_returns(onevision, clip, model_folder, tmp_path):
    out_file = tmp_path / "new" / "features.safetensors"
    status, _, _ = onevision("encode", clip, "--model", model_folder, "--num-frames", 5, "--out", out_file)
    inputs = OneVisionVideoProcessor()(str(clip), num_frames=5, return_tensors="pt")
    with torch.inference_mode():
        expected = OneVisionModel.from_pretrained(model_folder)(**inputs)
    written = load_file(out_file)
    assert status == 0
    assert torch.allclose(written["last_hidden_state"], expected.last_hidden_state, atol=1e-5)
    assert torch.allclose(written["pooler_output"], expected.pooler_output, atol=1e-5)
    assert torch.equal(written["patch_positions"], inputs["patch_positions"])


def test_encode_takes_the_processor_that_was_saved_with_the_model(onevision, clip, tmp_path):
    OneVisionModel(OneVisionConfig.tiny()).save_pretrained(tmp_path)
    status, out, _ = onevision("encode", clip, "--model", tmp_path, "--num-frames", 4)
    assert status == 0 and "comes without a video processor" in out
    OneVisionVideoProcessor(num_patches=500, num_frames=4).save_pretrained(tmp_path)
    status, out, _ = onevision("encode", clip, "--model", tmp_path, "--json")
    assert (
        status == 0 and json.loads(out)["clips"][0]["patches_kept"] == 500 and json.loads(out)["notes"] == []
    )


def test_tiny_is_the_folder_in_the_package(onevision, clip, tmp_path):
    files = []
    for words in ((), ("--model", "tiny"), ("--model", tiny())):
        files.append(tmp_path / f"{len(files)}.safetensors")
        assert onevision("encode", clip, "--num-frames", 3, *words, "--out", files[-1])[0] == 0
    first, named, folder = (load_file(file)["pooler_output"] for file in files)
    assert torch.equal(first, named) and torch.equal(first, folder)


def test_several_clips_are_padded_together_and_a_broken_one_stops_nobody(onevision, clip, tmp_path):
    small = write_clip(tmp_path / "small.mp4", moving_scene(3, 96, 96))
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    out_file = tmp_path / "all.safetensors"
    status, _, err = onevision("encode", clip, broken, small, "--num-frames", 48, "--out", out_file)
    assert status == 1 and len(err.splitlines()) == 1 and "broken.mp4" in err
    written = load_file(out_file)
    lengths = written["pixel_attention_mask"].sum(1)
    assert (
        len(lengths) == 2 and lengths[0] > lengths[1] and lengths[0] == written["last_hidden_state"].shape[1]
    )
    assert not written["last_hidden_state"][1, lengths[1] :].any()
    with safe_open(out_file, "pt") as file:
        assert json.loads(file.metadata()["clips"]) == [str(clip), str(small)]


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_view_draws(onevision, clip, tmp_path, suffix):
    out_file = tmp_path / f"view{suffix}"
    status, out, err = onevision("view", clip, "--num-frames", 6, "--out", out_file)
    assert status == 0 and err == "" and out_file.stat().st_size > 1000
    assert "patches kept" in out and all(stage in out for stage in ("select", "decode", "draw"))


def test_view_shows_the_frames_in_colour_where_patches_are_kept(onevision, tmp_path):
    out_file = tmp_path / "view.png"
    status, out, _ = onevision(
        "view", "bundled", "--num-frames", 4, "--num-patches", 500, "--out", out_file, "--json"
    )
    report = json.loads(out)
    assert status == 0 and report["patches_kept"] == 500 and report["clip"] == "bundled"
    with Image.open(out_file) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    assert np.ptp(pixels, axis=-1).max() > 150


def test_a_share_of_the_energy_is_enough(onevision, clip, tmp_path):
    found = []
    for command in (["encode", clip], ["view", clip, "--out", tmp_path / "view.png"]):
        for share in (0.2, 0.9):
            words = ["--num-frames", 8, "--num-patches", 500, "--keep-energy", share, "--json"]
            status, out, _ = onevision(*command, *words)
            report = json.loads(out)
            found.append((report["clips"][0] if "clips" in report else report)["patches_kept"])
            assert status == 0 and found[-1] <= 500
    assert found[0] < found[1] and found[2] < found[3]


@pytest.fixture
def bad_clips(tmp_path, clip):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:500])
    write_audio(tmp_path / "sound.mp4")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", ["encode", "view"])
@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "text.mp4", "cut.mp4", "sound.mp4", "folder"])
def test_a_bad_clip_is_status_1_and_one_line_with_its_name(onevision, bad_clips, command, name):
    words = ["--out", bad_clips / "out.png"] if command == "view" else []
    status, out, err = onevision(command, bad_clips / name, *words)
    assert status == 1 and out == ""
    assert len(err.splitlines()) == 1 and name in err and err.startswith(f"onevision {command}: error: ")
    assert not (bad_clips / "out.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["encode", "CLIP", "--num-patches", "10000000"], r"10000000.*\d+"),
        (["encode", "CLIP", "--num-patches", "-3"], "-3"),
        (["encode", "CLIP", "--keep-energy", "90"], r"keep_energy must be in \(0, 1\], not 90"),
        (["view", "CLIP", "--keep-energy", "0", "--out", "view.png"], r"keep_energy must be in \(0, 1\]"),
        (["encode", "CLIP", "--num-frames", "0"], "num_frames"),
        (["encode", "CLIP", "--model", "./no-such-folder"], "no such model folder"),
        (["encode", "CLIP", "--out", "features.npz"], ".safetensors"),
        (["view", "CLIP", "--out", "picture.bmp"], ".png, .gif or .mp4"),
        (["view", "CLIP", "--out", "CLIP"], "the clip itself"),
        (["view", "CLIP", "--out", "picture.png", "--num-frames", "-1"], "num_frames"),
    ],
)
def test_a_bad_argument_is_status_1_and_one_line(onevision, clip, words, says):
    status, out, err = onevision(*(clip if word == "CLIP" else word for word in words))
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert re.search(says, err)


def test_a_model_of_another_kind_is_refused_by_name(onevision, clip, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    status, _, err = onevision("encode", clip, "--model", tmp_path)
    assert status == 1 and "is a vit" in err and "onevision_encoder" in err


def test_help_lists_every_command_and_each_has_its_own(onevision):
    status, out, _ = onevision("--help")
    said = " ".join(out.split())  # whatever the width of the terminal
    assert status == 0 and all(f"{name} {help}" in said for name, help in COMMANDS.items())
    for name, command in every_command():
        if hasattr(command, "commands"):  # several stages: each has its options
            continue
        status, out, _ = onevision(*name.split(), "--help")
        assert status == 0 and ("--json" in out or name == "chat")  # a conversation is read by a person
        assert command.help in " ".join(out.split())
    assert onevision("no-such-command")[0] == onevision()[0] == onevision("eval")[0] == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["view", "x"], "--out"),
        (["view", "x", "--out", "y.png", "--num-frame", "8"], "--num-frames"),
        (["view", "x", "--out", "y.png", "--signals", "motion"], "motion"),
        (["eval", "suite", "--model", "m", "--limit", "0"], "--limit"),
        (["vew", "x"], "view"),
        (["cluster", "run", "a", "b", "--clusters", "2", "--select", "size"], "name=value"),
        (["train", "--config", "cluster_smoke", "--dry-run", "--json"], "--json"),
        (["train", "--config", "cluster_smoke", "--export", "2", "--dry-run"], "--export"),
    ],
)
def test_a_wrong_option_is_status_2_and_says_which(onevision, words, named):
    status, out, err = onevision(*words)
    assert status == 2 and out == "" and named in err and "Usage: onevision" in err


def test_options_that_take_several_values_or_none():
    own = parse(["view", "x", "--signals", "vectors", "bits", "--out", "y.png"])
    assert own["signals"] == ["vectors", "bits"] and own["clip"] == "x"
    assert not parse(["view", "x", "--out", "y.png"])["signals"]
    knn = ["eval", "knn", "x", "--model", "tiny"]
    for more, found in (
        ([], None),
        (["--json"], "-"),
        (["--json", "--size", "8"], "-"),
        (["--json", "f"], "f"),
    ):
        given = parse([*knn, *more])["as_json"]
        assert given is None if found is None else str(given) == found
    assert parse(["eval", "motion"])["steps"] is None
    assert parse(["eval", "motion", "--steps", "60", "20"])["steps"] == (60, 20)
    with pytest.raises(ValueError, match="--signals"):
        parse(["view", "x", "--out", "y.png", "--signals"])


def test_choices_are_those_of_the_modules_that_act_on_them():
    from onevision_hf.modeling.frame_sampling import SAMPLINGS
    from onevision_hf.modeling.signal_settings import PRESETS, SIGNALS
    from onevision_hf.synthetic.encoding import CODECS
    from onevision_hf.synthetic.families import BACKGROUNDS, CLIP_FAMILIES, IMAGE_FAMILIES

    assert get_args(options.Preset) == PRESETS and get_args(options.Sampling) == SAMPLINGS
    assert tuple(options.Signal) == SIGNALS
    for told, names in (
        (synth.CLIP_FAMILIES, CLIP_FAMILIES),
        (synth.IMAGE_FAMILIES, IMAGE_FAMILIES),
        (synth.BACKGROUNDS, BACKGROUNDS),
        (synth.CODECS, CODECS),
    ):
        assert told.split(", ") == list(names)


LIGHT = """
import sys
sys.argv = ["onevision", *{words!r}]
from onevision_hf.cli import main
status = main()
large = sorted({{"torch", "transformers", "numpy", "av", "PIL", "pyarrow", *{more!r}}} & set(sys.modules))
sys.exit(f"{{large}} were imported" if large else status)
"""


def _run_light(*words, more=(), **environment):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words, more=more)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_of_every_command_imports_nothing_large():
    """In one process, the last of which has imported what any of them would."""
    code = (
        "import sys\n"
        "from command_line import every_command, top\n"
        "from onevision_hf.commands.groups import walk\n"
        "helps = [command.get_help(context) for command, context in walk(*top())]\n"
        "large = {'torch', 'transformers', 'numpy', 'av', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "assert len(helps) > 35 and not large, large\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["eval", "knn", "--help"], ["view", "--help"]])
def test_help_and_version_import_nothing_large(words):
    """Nor pydantic, by which typer checks what is given, and which takes longer than all the rest."""
    assert "onevision" in _run_light(*words, more=("pydantic",))


def test_the_command_needs_no_network_and_runs_as_a_module(tmp_path):
    """A fresh process whose sockets fail: without a Hub id nothing is looked up."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise RuntimeError('the network was used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from onevision_hf.cli import main\n"
        "sys.exit(main(['encode', 'bundled', '--num-frames', '2', '--json']))\n"
    )
    done = fresh(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"][0]["path"] == str(bundled_clip())


def test_every_argument_and_option_has_a_line_of_help():
    missing = [
        f"{name}: {parameter.name}"
        for name, command in every_command()
        for parameter in command.params
        if not parameter.help
    ]
    assert not missing


def test_where_a_budget_is_a_share_of_patches_it_is_one_of_energy_too():
    options = {name: {o for p in command.params for o in p.opts} for name, command in every_command()}
    offering = {name for name, own in options.items() if "--keep-ratio" in own}
    assert offering == {"chat", "encode", "patches", "eval suite"}
    assert {name for name, own in options.items() if "--keep-energy" in own} == offering | {"view"}


def test_an_option_is_the_same_thing_in_every_command():
    kinds = {}
    for name, command in every_command():
        for parameter in command.params:
            if parameter.param_type_name != "option":
                continue
            for option in parameter.opts:
                assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", option), f"{name}: {option}"
                kinds.setdefault(option, {})[name] = "a switch" if parameter.is_flag else "a value"
            assert not parameter.secondary_opts, f"{name}: {parameter.opts} has an opposite"
            if "--budget" in parameter.opts:
                assert "--num-patches" in parameter.opts, name
    # `--json` of two evaluations may also name a file.
    mixed = {option: found for option, found in kinds.items() if len(set(found.values())) > 1}
    assert set(mixed) <= {"--json"}
    assert {name for name, kind in kinds["--json"].items() if kind == "a value"} == {
        "eval knn",
        "eval motion",
    }
    words = {"--output", "--output-dir", "--jobs", "--frames", "--patches", "--folder", "--force", "--quiet"}
    assert not words & set(kinds), "these are --out, --workers, --num-frames, --num-patches, --redo here"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["onevision", "extract"], "extract-encoder"),
        (["onevision", "view", "--num-p"], "--num-patches"),
        (["onevision", "cluster", "km"], "kmeans"),
        (["onevision", "eval", "knn", "x", "--input", "de"], "dense"),
    ],
)
def test_a_shell_completes_commands_and_options_at_once(words, completed):
    """As the script that `--show-completion` prints calls it; nothing large is imported."""
    environment = {
        "_ONEVISION_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    assert _run_light(**environment).split() == [completed]


def test_the_script_of_completion_is_printed_for_a_shell():
    script = _run_light(_ONEVISION_COMPLETE="source_bash")
    assert "_ONEVISION_COMPLETE=complete_bash" in script and "onevision" in script


@pytest.mark.parametrize(
    ("watched", "no_color", "red"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_a_terminal_whose_reader_wants_them(watched, no_color, red, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: watched
    assert ("\x1b" in in_red("error", stream)) is red and "error" in in_red("error", stream)
