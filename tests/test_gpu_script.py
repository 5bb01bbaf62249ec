"""`benchmarks/gpu.py` on a processor: what is found is kept, and nothing is made up where there is no GPU."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        # The script sets them for itself; here they are as before when it has been imported.
        for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
            patch.setenv(name, os.environ.get(name, "1"))
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("gpu")


@pytest.fixture
def parts(script, monkeypatch):
    """Two parts that take no time, and how often each was run."""
    calls = {"one": 0, "two": 0}

    def part(name, **figures):
        def run(sizes):
            calls[name] += 1
            return [{"name": name, **figures}]

        return script.PARTS["peak"].__class__(f"Part {name}", run)

    monkeypatch.setattr(script, "PARTS", {"one": part("one", ms=12345.6, MFU=0.512), "two": part("two")})
    return calls


def run(script, out, *arguments):
    return script.main(["--tiny", "--minutes", "1e6", "--out", str(out), "--only", *arguments])


def test_a_part_that_is_there_is_not_run_again_and_the_tables_hold_all(script, parts, tmp_path, capsys):
    assert run(script, tmp_path, "one") == 0
    assert run(script, tmp_path, "one", "two") == 0 and parts == {"one": 1, "two": 1}
    assert run(script, tmp_path, "two") == 0  # its tables have the other part, too
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["rows"] == [{"name": "one", "ms": 12345.6, "MFU": 0.512}]
    printed = capsys.readouterr().out
    printed = printed[printed.rindex("processor, torch") :]  # the last of three reports
    assert f"processor, torch {torch.__version__}, {found['date']}, tiny" in printed
    assert "| name | ms | MFU |\n| --- | --- | --- |\n| one | 12,346 | 0.512 |" in printed


def test_a_part_that_fails_is_told_and_the_next_one_is_run(script, parts, tmp_path, capsys):
    script.PARTS["one"].run = lambda sizes: [][1]
    assert run(script, tmp_path, "one", "two") == 1 and parts["two"] == 1
    printed = capsys.readouterr()
    assert "IndexError" in printed.err and "Not run: one." in printed.out
    assert not (tmp_path / "one.json").exists()


def test_a_part_is_stopped_when_the_time_is_over_and_the_others_are_kept(script, parts, tmp_path, capsys):
    def forever(sizes):
        while True:
            with contextlib.suppress(Exception):  # as libraries do
                sum(range(1000))

    run(script, tmp_path, "one")
    script.PARTS["two"].run = forever
    assert script.main(["--tiny", "--minutes", "0", "--out", str(tmp_path), "--only", "one", "two"]) == 1
    printed = capsys.readouterr()
    assert "goes on with two" in printed.err and "Part one" in printed.out and parts["one"] == 1


def test_attentions_that_disagree_are_a_failure(script, parts, tmp_path):
    script.PARTS["one"].run = lambda sizes: [{"agrees": True}, {"agrees": False}]
    assert run(script, tmp_path, "one") == 1


def test_what_another_machine_found_is_not_taken_for_this_one(script, parts, tmp_path, capsys):
    run(script, tmp_path, "one")
    path = tmp_path / "one.json"
    path.write_text(path.read_text().replace('"processor"', '"NVIDIA H200"'))
    with pytest.raises(SystemExit):
        run(script, tmp_path, "one")
    assert "NVIDIA H200" in capsys.readouterr().err and parts["one"] == 1


def test_no_page_is_written_of_tiny_sizes_nor_without_a_gpu(script, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"{script.START}\nnothing\n{script.END}\n")
    before = page.read_text()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, reason in (["--tiny"], "for figures of a GPU"), ([], "no GPU was found"):
        with pytest.raises(SystemExit):
            script.main([*arguments, "--out", str(tmp_path), "--write", str(page)])
        assert reason in capsys.readouterr().err and page.read_text() == before


def test_the_docs_have_the_place_and_painted_fields_are_no_torch(script):
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(script.START) == text.count(script.END) == 1
    files = [path for name in ("painted_*", "reference_paint") for path in modeling(f"{name}.py")]
    assert len(files) > 4 and not [path.name for path in files if "torch" in path.read_text()]


def modeling(pattern):
    return (ROOT / "onevision_hf" / "modeling").glob(pattern)


@pytest.mark.slow
def test_every_part_runs_at_tiny_size(tmp_path):
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text())["rows"] for path in tmp_path.glob("*.json")}
    assert len(found) == 10 and all(found.values())
    by_name = {row["attention"]: row for row in found["attention"]}
    assert by_name["sdpa"]["agrees"] and by_name["flex_attention"]["agrees"]
    assert [row["compile"] for row in found["training"]] == [False, True]
    passes = {(row["pass"], row["patches"]) for row in found["large"]}
    assert len(passes) == 4 and {row["input"] for row in found["multimodal"]} == {"codec", "frames", "dense"}
    shares = [row["share of the step"] for row in found["cluster"]]
    assert len(shares) == 3 and all(0 < share < 1 for share in shares)
