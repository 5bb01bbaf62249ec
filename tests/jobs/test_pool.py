"""The pool gives results in order or as they are done, replaces dead processes, and leaves none behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import engine_workers
import pytest
from engine_workers import after, dying_once, terminated
from test_engines import alive

from onevision_hf.jobs.pool import EngineError, as_done, in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks_and_errors_are_raised_here(workers):
    assert list(in_order((6).__floordiv__, [1, 2, 3, 6], workers)) == [6, 3, 2, 1]
    assert list(in_order(abs, [], workers)) == []
    with pytest.raises(ZeroDivisionError):
        list(in_order((6).__floordiv__, [1, 2, 0, 3], workers))


def test_a_killed_process_is_replaced_and_the_order_kept(tmp_path):
    assert list(in_order(partial(dying_once, tmp_path), range(6), 2)) == [0, 10, 20, 30, 40, 50]
    assert (tmp_path / "died").exists()


def test_a_task_that_no_process_survives_is_named_with_how_the_last_ended():
    with pytest.raises(EngineError, match=r"5 worker processes died over task \d, the last with status 7"):
        list(in_order(os._exit, [7, 7], 2))
    with pytest.raises(EngineError, match=f"status -{signal.SIGTERM.value} .*what is finished is kept"):
        list(in_order(terminated, [0, 1], 2))
    with pytest.raises(EngineError, match="task 7, the last with status 7"):
        list(as_done(os._exit, range(8), 2, lambda task: task > 6))


def test_a_task_begins_when_it_is_ready_and_long_ones_hold_nobody_up(tmp_path):
    def is_ready(task):
        return task != 1 or (tmp_path / "0").exists()

    found = list(as_done(partial(after, tmp_path), range(4), 2, is_ready))
    assert found[0] == (2, 20) and found[3] == (1, 10), "2 and 3 need not wait for the long one, as 1 does"
    assert sorted(found) == [(task, 10 * task) for task in range(4)]
    with pytest.raises(ValueError, match=r"tasks \[0, 1\] wait for one another"):
        list(as_done(abs, range(2), 2, lambda task: False))
    assert list(as_done(abs, [-1, 1], 1)) == [(0, 1), (1, 1)]


DRIVER = """
import functools, sys
sys.path.insert(0, sys.argv[2])
from engine_workers import endless
from onevision_hf.jobs.pool import as_done

if __name__ == "__main__":
    list(as_done(functools.partial(endless, sys.argv[1]), range(9), 2))
"""


def test_processes_end_within_their_tasks_when_the_one_that_started_them_is_killed(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    (out := tmp_path / "out").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, tmp_path / "driver.py", out, Path(engine_workers.__file__).parent]
    driver = subprocess.Popen(words, env=environment)
    try:
        while len(list(out.iterdir())) < 2:
            assert driver.poll() is None
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    workers = [int(file.name) for file in out.iterdir()]
    while any(map(alive, workers)):  # the test's time limit is the limit
        time.sleep(0.01)
