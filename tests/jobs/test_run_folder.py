"""A run folder is never mistaken for another run's, and a kill at any point costs one shard at most."""

import json
import os
import signal

import pytest

from onevision_hf.jobs.run_folder import FinishedRun, RunFolder, digest_of

NAMES = [f"part-{i:05d}.txt" for i in range(2)]


def open_run(path, settings=None, sources="s1", **kwargs):
    return RunFolder(path, stage="letters", settings=settings or {"size": 3}, sources=sources, **kwargs)


def fill(path, **kwargs):
    with open_run(path, **kwargs) as run:
        for index in run.missing(NAMES):
            with run.shard(NAMES[index], f"beside-{index:05d}.txt") as (shard, beside):
                beside.write_text(f"beside {index}")
                shard.write_text(f"letters {index}")
        return run.finish({"parts": len(NAMES)})


def tree(path):
    return {p.name: p.read_bytes() for p in path.iterdir() if not p.name.startswith(".lock")}


def run_and_kill(job, after):
    """Run `job` in a fork that kills itself (SIGKILL) at its system call number `after`; True if it was
    killed."""
    child = os.fork()
    if child == 0:
        calls = 0
        for name in ("replace", "fsync", "unlink"):
            real = getattr(os, name)

            def counted(*args, real=real, **kwargs):
                nonlocal calls
                calls += 1
                if calls == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            setattr(os, name, counted)
        try:
            job()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_every_system_call_the_result_is_the_same(tmp_path, record_property):
    fill(tmp_path / "whole")
    for after in range(1, 200):
        folder = tmp_path / f"killed-{after}"
        killed = run_and_kill(lambda folder=folder: fill(folder), after)
        fill(folder)
        assert tree(folder) == tree(tmp_path / "whole")
        if not killed:
            assert after > 12
            record_property("trials", after - 1)
            return
    raise AssertionError("the job never ended by itself")


def test_killed_while_it_empties_a_folder_it_never_keeps_an_old_shard(tmp_path, record_property):
    fill(tmp_path / "whole", sources="s2")
    for trials, after in enumerate(range(1, 200, 4)):
        folder = tmp_path / f"killed-{after}"
        fill(folder, sources="s1")
        killed = run_and_kill(lambda folder=folder: fill(folder, sources="s2", redo=True), after)
        fill(folder, sources="s2", redo=True)
        assert tree(folder) == tree(tmp_path / "whole")
        if not killed:
            record_property("trials", trials)
            return


@pytest.mark.parametrize("name", [*NAMES, "plan.json", "summary.json", "digests.json", "digests-00001.json"])
def test_killed_while_it_makes_again_what_is_damaged_nothing_damaged_is_left(tmp_path, name):
    fill(tmp_path / "whole")
    for after in range(1, 200, 3):
        folder = tmp_path / f"killed-{after}"
        fill(folder)
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"e", b"f", 1))
        killed = run_and_kill(lambda folder=folder: fill(folder, redo=True), after)
        fill(folder, redo=True)
        assert tree(folder) == tree(tmp_path / "whole")
        if not killed:
            return


def test_finished_shards_are_kept(tmp_path):
    with open_run(tmp_path) as run:
        with run.shard(NAMES[0]) as path:
            path.write_text("first")
        before = (tmp_path / NAMES[0]).stat().st_mtime_ns
    with open_run(tmp_path) as run:
        assert run.missing(NAMES) == [1]
    assert (tmp_path / NAMES[0]).stat().st_mtime_ns == before


def test_a_shard_whose_writing_fails_does_not_appear(tmp_path):
    with open_run(tmp_path) as run:
        with pytest.raises(RuntimeError), run.shard(NAMES[0]) as path:
            path.write_text("half")
            raise RuntimeError
        assert run.missing(NAMES[:1]) == [0]
        assert not list(tmp_path.glob(".*.tmp"))


def test_other_settings_are_refused_and_named(tmp_path):
    fill(tmp_path)
    with pytest.raises(ValueError, match=r"size was 3, now 4.*--redo"):
        open_run(tmp_path, {"size": 4})
    with pytest.raises(ValueError, match="sources have changed"):
        open_run(tmp_path, sources="s2")
    assert tree(tmp_path)[NAMES[0]] == b"letters 0"


def test_redo_empties_the_folder(tmp_path):
    fill(tmp_path)
    with open_run(tmp_path, {"size": 4}, redo=True) as run:
        assert run.missing(NAMES) == [0, 1]
        assert not run.finished


def test_redo_keeps_what_was_made_with_the_same_plan(tmp_path):
    fill(tmp_path)
    with open_run(tmp_path, redo=True) as run:
        assert run.missing(NAMES) == [] and run.finished


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        open_run(tmp_path, redo=True)
    assert (tmp_path / "thesis.txt").read_text() == "do not touch"


def test_two_jobs_cannot_write_one_folder(tmp_path):
    with open_run(tmp_path), pytest.raises(ValueError, match="another process"):
        open_run(tmp_path)
    open_run(tmp_path).close()


def test_a_later_stage_takes_finished_runs_of_the_right_stage_only(tmp_path):
    with open_run(tmp_path), pytest.raises(ValueError, match="not finished"):
        FinishedRun(tmp_path, "letters")
    fill(tmp_path)
    assert FinishedRun(tmp_path, "letters").summary["parts"] == 2
    with pytest.raises(ValueError, match="made by 'letters', expected 'words'"):
        FinishedRun(tmp_path, "words")
    with pytest.raises(ValueError, match=r"no plan\.json"):
        FinishedRun(tmp_path / "nowhere", "letters")


def test_a_run_that_is_open_gives_no_file_of_the_one_that_took_its_place(tmp_path):
    fill(tmp_path)
    run = FinishedRun(tmp_path, "letters")
    assert run.file(NAMES[0]).read_text() == "letters 0"
    fill(tmp_path, settings={"size": 4}, redo=True)
    with pytest.raises(OSError, match="was made again, another way, since it was opened: open it anew"):
        run.file(NAMES[0])
    assert FinishedRun(tmp_path, "letters").file(NAMES[0]).exists()
    fill(tmp_path, redo=True)
    assert run.file(NAMES[0]).exists(), "it is again what it was"


def test_a_summary_of_an_earlier_plan_does_not_finish_a_new_one(tmp_path):
    fill(tmp_path)
    summary = (tmp_path / "summary.json").read_text()
    with open_run(tmp_path, {"size": 4}, redo=True):
        (tmp_path / "summary.json").write_text(summary)
        with pytest.raises(ValueError, match="not finished"):
            FinishedRun(tmp_path, "letters")


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of(json.loads('{"b": [2], "a": 1}'))
    assert digest_of(["a", "b"]) != digest_of(["b", "a"])
