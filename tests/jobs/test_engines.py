"""The local engine does every task once, whatever happens to its workers."""

import functools
import os
import time
from pathlib import Path

import pytest
from engine_workers import dying, failing, squaring

from onevision_hf.jobs.engines import run_tasks
from onevision_hf.jobs.pool import EngineError


@pytest.mark.parametrize("workers", [0, 3])
def test_every_task_is_done_and_an_error_is_raised_here(workers):
    assert sorted(run_tasks(squaring, range(10), workers=workers)) == [n * n for n in range(10)]
    assert list(run_tasks(squaring, [], workers=workers)) == []
    with pytest.raises(ZeroDivisionError, match="task 3"):
        list(run_tasks(failing, range(6), workers=workers))


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path):
    results = list(run_tasks(functools.partial(dying, tmp_path, False), range(6), workers=2))
    assert sorted(task for _, task in results) == list(range(6))
    assert len({pid for pid, _ in results}) >= 2 and len(list(tmp_path.glob("2-*"))) == 2


def test_a_task_that_no_worker_survives_ends_the_run_with_its_number(tmp_path):
    with pytest.raises(EngineError, match=r"5 worker processes died over task 2.*status -9.*run again"):
        list(run_tasks(functools.partial(dying, tmp_path, True), range(4), workers=2))


def test_workers_end_when_nobody_reads_on(tmp_path):
    results = run_tasks(functools.partial(dying, tmp_path, False), range(200), workers=2)
    pid, _ = next(results)
    results.close()
    for _ in range(200):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unknown engine 'slurm'"):
        run_tasks(squaring, [1], engine="slurm")
    with pytest.raises(ValueError, match="the local engine has no address"):
        run_tasks(squaring, [1], address="127.0.0.1:6379")
    with pytest.raises(ValueError, match="at least 1"):
        run_tasks(squaring, [1], engine="ray", workers=0)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray needs: pip install '\.\[ray\]'"):
        list(run_tasks(squaring, [1], engine="ray"))


def test_a_ray_cluster_that_is_not_there_is_told_at_once():
    pytest.importorskip("ray")
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no Ray cluster at 127.0.0.1:1: .*refused.*ray start --head"):
        list(run_tasks(squaring, [1], engine="ray", address="127.0.0.1:1"))
    assert time.monotonic() - began < 120  # Ray itself would wait for minutes
