"""No byte of a finished file changes unseen: it is an error that names the file and what makes it again."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf.cli import main
from onevision_hf.jobs import digests
from onevision_hf.jobs.digests import BLOCK, DIGESTS, DamagedError, checked, examine, forget
from onevision_hf.jobs.run_folder import PLAN, SUMMARY, FinishedRun, RunFolder

SHARDS = ["part-00000.bin", "part-00001.bin"]
PIECE = bytes(range(256)) * (BLOCK // 256)
CONTENT = {
    "part-00000.bin": PIECE + PIECE[::-1] + b"the end",
    "part-00001.bin": b"short",
    "beside-00000.jsonl": b'{"key": "a"}\n',
    "beside-00001.jsonl": b"",
    "all.bin": b"of all shards",
}


def open_run(path, **kwargs):
    return RunFolder(path, stage="kmeans", settings={"size": 3}, sources="s1", **kwargs)


def fill(path, **kwargs):
    with open_run(path, **kwargs) as run:
        for index in run.missing(SHARDS):
            with run.shard(SHARDS[index], f"beside-0000{index}.jsonl") as files:
                for file, name in zip(files, (SHARDS[index], f"beside-0000{index}.jsonl"), strict=True):
                    file.write_bytes(CONTENT[name])
        run.write("working.bin", b"of an unfinished run")
        run.write("all.bin", CONTENT["all.bin"])
        return run.finish({"parts": 2}, working=["working.*"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    fill(path)
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture(autouse=True)
def in_another_process():
    forget()


def tree(path):
    return {p.name: p.read_bytes() for p in path.iterdir() if not p.name.startswith(".lock")}


def flip(path, place, bits=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def read_all(path):
    """Everything that a reader of the folder can get at."""
    run = FinishedRun(path, "kmeans")
    return run.plan, run.summary, {name: run.file(name).read_bytes() for name in CONTENT}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_an_error_or_changes_nothing(finished, data):
    before = read_all(finished)
    file = finished / data.draw(st.sampled_from(sorted(n for n, c in tree(finished).items() if c)))
    place = data.draw(st.integers(0, file.stat().st_size - 1))
    bits = data.draw(st.integers(1, 255))
    forget()
    flip(file, place, bits)
    try:
        found = read_all(finished)
    except DamagedError as error:
        assert f"{file} is damaged" in str(error) and "`onevision cluster kmeans ... --redo`" in str(error)
    else:
        assert found == before and file.name.startswith("digests")  # a space became the end of a line
    finally:
        flip(file, place, bits)


def test_the_error_says_where_and_only_what_is_read_is_compared(copy):
    flip(copy / "part-00000.bin", BLOCK + 7)
    run = FinishedRun(copy, "kmeans")
    assert run.file("part-00000.bin", 0, BLOCK).read_bytes()[:BLOCK] == PIECE
    assert run.file("part-00000.bin", 2 * BLOCK)
    with pytest.raises(
        DamagedError, match=r"part-00000\.bin is damaged: bytes 1,048,576 to 2,097,151 are not"
    ):
        run.file("part-00000.bin", BLOCK - 1, BLOCK + 1)
    with pytest.raises(DamagedError, match=r"`onevision cluster kmeans \.\.\. --redo`"):
        run.file("part-00000.bin")


def test_a_block_is_compared_once_in_a_process(copy, monkeypatch):
    compared = []
    real = digests._next_block
    monkeypatch.setattr(
        digests, "_next_block", lambda file, piece: compared.append(file) or real(file, piece)
    )
    for _ in range(2):
        run = FinishedRun(copy, "kmeans")
        run.file("part-00000.bin", 5, 6)
        run.file("part-00000.bin")
    assert len([file for file in compared if str(file.name) == str(copy / "part-00000.bin")]) == 3


@pytest.mark.parametrize("name", [*CONTENT, PLAN, SUMMARY])
def test_redo_makes_again_what_is_damaged_and_nothing_else(copy, finished, name):
    if CONTENT.get(name) != b"":
        flip(copy / name, 3, 255)
    else:
        (copy / name).unlink()
    spared = SHARDS[1] if "00000" in name else SHARDS[0]
    before = (copy / spared).stat().st_mtime_ns
    if name == PLAN:
        with pytest.raises(DamagedError, match=r"plan\.json is damaged.*--redo"):
            fill(copy)
    fill(copy, redo=True)
    assert tree(copy) == tree(finished) and (copy / spared).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", [DIGESTS, "digests-00000.json"])
def test_damaged_digests_are_made_again(copy, finished, name):
    flip(copy / name, 40, 255)
    fill(copy, redo=True)
    assert tree(copy) == tree(finished)


def test_redo_of_a_whole_folder_changes_nothing(copy, finished):
    times = {p.name: p.stat().st_mtime_ns for p in copy.iterdir() if p.name.startswith("part")}
    fill(copy, redo=True)
    assert times == {name: (copy / name).stat().st_mtime_ns for name in times}
    assert tree(copy) == tree(finished)


def test_a_finished_shard_of_an_unfinished_run_is_compared_too(tmp_path):
    with open_run(tmp_path) as run:
        with run.shard(SHARDS[0]) as path:
            path.write_bytes(PIECE)
        assert run.file(SHARDS[0]).read_bytes() == PIECE
        assert not (tmp_path / "digests-00001.json").exists()
        flip(tmp_path / SHARDS[0], 9)
        forget()
        with pytest.raises(DamagedError, match=r"part-00000\.bin"):
            run.file(SHARDS[0])
    with open_run(tmp_path, redo=True) as run:
        assert run.missing(SHARDS) == [0, 1]


def as_before(path):
    """A folder as it was when there were no digests."""
    for file in path.glob("digests*.json"):
        file.unlink()


def test_a_folder_without_digests_is_read_as_before_and_doctor_says_so(copy, capsys):
    as_before(copy)
    flip(copy / "all.bin", 0)
    assert FinishedRun(copy, "kmeans").file("all.bin").exists()
    assert main(["doctor", "--verify", str(copy)]) == 1
    assert "no digests" in capsys.readouterr().out


def test_a_run_that_was_begun_without_digests_gets_them_when_it_is_finished(copy, finished):
    as_before(copy)
    (copy / SUMMARY).unlink()
    (copy / SHARDS[1]).unlink()
    fill(copy)
    assert tree(copy) == tree(finished)


def test_doctor_names_what_differs_is_missing_and_is_left_over(copy, capsys):
    assert main(["doctor", "--verify", str(copy.parent)]) == 0
    assert "copy: whole (7 files compared, 2.1 MB)" in capsys.readouterr().out
    flip(copy / "part-00000.bin", 2 * BLOCK)
    (copy / "part-00001.bin").unlink()
    (copy / "note.txt").write_text("mine")
    assert main(["doctor", "--verify", str(copy), "--json"]) == 1
    (folder,) = json.loads(capsys.readouterr().out).values()
    assert folder["state"] == "not whole" and "onevision cluster kmeans ... --redo" in folder["again"]
    assert folder["faults"] == {
        "part-00000.bin": "differs",
        "part-00001.bin": "is missing",
        "note.txt": "is left over: no finished stage wrote it",
    }
    assert main(["doctor", "--verify", str(copy)]) == 1
    assert "  part-00000.bin differs\n" in capsys.readouterr().out


def test_doctor_sees_a_whole_shard_that_is_missing_and_a_run_that_is_not_finished(copy, capsys):
    for file in copy.glob("*-00001.*"):
        file.unlink()
    assert examine(copy).faults == {"digests-00001.json": "is missing"}
    with pytest.raises(DamagedError, match=r"digests-00001\.json is damaged: it is gone"):
        FinishedRun(copy, "kmeans").file(SHARDS[1])
    (copy / SUMMARY).unlink()
    (copy / DIGESTS).unlink()
    assert main(["doctor", "--verify", str(copy)]) == 1
    assert "not finished" in capsys.readouterr().out
    assert main(["doctor", "--verify", str(copy / "nowhere")]) == 1
    assert "is no run folder" in capsys.readouterr().err


def test_a_file_that_is_named_by_itself_is_compared_where_it_has_digests(copy, tmp_path):
    assert checked(copy / "all.bin") == copy / "all.bin"
    shutil.copy(copy / "all.bin", tmp_path / "alone.bin")
    assert checked(tmp_path / "alone.bin").exists()
    forget()
    flip(copy / "all.bin", 1)
    with pytest.raises(DamagedError, match=r"all\.bin is damaged"):
        checked(copy / "all.bin")


def test_files_of_another_size_and_files_that_nobody_wrote_are_errors(copy):
    run = FinishedRun(copy, "kmeans")
    (copy / "all.bin").write_bytes(CONTENT["all.bin"][:-1])
    with pytest.raises(DamagedError, match="it has 12 bytes and had 13"):
        run.file("all.bin")
    (copy / "mine.bin").write_bytes(b"")
    with pytest.raises(DamagedError, match="was not there when the folder was finished"):
        run.file("mine.bin")
