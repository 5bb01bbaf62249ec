"""The table of docs/reliability.md: each promise, its tests, how often it was tried, what was lost.

    make reliability                                        # runs all tests named there (an hour), writes it
    python scripts/reliability_table.py --only kill         # those of the promises that say so
    python scripts/reliability_table.py --write             # the table again, from what is recorded

A test counts as many trials as it says by `record_property("trials", n)` (kills, mostly), else one a case.
What each gave when it ran last is in docs/runs/reliability.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "docs" / "runs" / "reliability.json"
START, END = "<!-- reliability: written by `make reliability` -->", "<!-- end of reliability -->"


class Promise(NamedTuple):
    text: str
    tests: tuple[str, ...]  # under tests/: file::name, or file for all in it


PROMISES = (
    Promise(
        "`onevision cluster run` killed (`kill -9`) before or after any rename goes on to byte-equal shards",
        ("clustering/test_cluster_command.py::test_killed_at_random_points_the_result_is_byte_for_byte_the_same",),
    ),
    Promise(
        "a run folder killed at each of its system calls, also while it is emptied, ends byte-equal",
        (
            "jobs/test_run_folder.py::test_killed_at_every_system_call_the_result_is_the_same",
            "jobs/test_run_folder.py::test_killed_while_it_empties_a_folder_it_never_keeps_an_old_shard",
        ),
    ),
    Promise(
        "`onevision patches` whose worker or driver is killed ends with the same shards, none written twice",
        (
            "data/test_patch_shards.py::test_a_killed_worker_costs_nothing",
            "data/test_patch_shards.py::test_a_killed_driver_costs_what_it_was_writing",
            "data/test_patch_shards.py::test_a_worker_killed_just_after_its_shard_leaves_no_note",
        ),
    ),
    Promise(
        "the same on Ray",
        (
            "data/test_patches_ray.py::test_a_killed_ray_worker_costs_nothing",
            "data/test_patches_ray.py::test_a_killed_driver_costs_what_was_being_written",
        ),
    ),
    Promise(
        "a training killed at any moment, also in a save, has a whole checkpoint and ends with equal losses",
        (
            "training/test_training_faults.py::"
            "test_a_kill_at_any_moment_leaves_a_whole_checkpoint_and_the_run_ends_as_if_nothing_was",
        ),
    ),
    Promise(
        "a training whose data worker is killed ends with a line and status 1, leaves no process, and goes "
        "on to equal losses",
        (
            "training/test_training_deaths.py::"
            "test_a_killed_worker_ends_the_training_with_1_and_one_line_and_leaves_no_process",
            "training/test_training_deaths.py::"
            "test_twenty_of_twenty_kills_end_the_training_and_it_ends_as_if_nothing_was",
        ),
    ),
    Promise(
        "a training that is told to stop saves, and goes on as if nothing was",
        ("training/test_training_faults.py::test_a_signal_saves_and_the_run_goes_on_as_if_nothing_was",),
    ),
    Promise(
        "latents, drawn media and probes go on after a kill with the same bytes or weights",
        (
            "data/test_latents.py::test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_bytes",
            "synthetic/test_synth_command.py::test_a_killed_run_leaves_whole_files_and_goes_on",
            "eval/test_probe_run.py::test_a_killed_probe_goes_on_as_if_nothing_had_been",
        ),
    ),
    Promise(
        "answers that were given are there after a kill, a line that it cut off is dropped",
        (
            "jobs/test_journal.py::test_what_write_returned_for_survives_the_process",
            "jobs/test_journal.py::test_a_line_that_a_kill_cut_off_is_dropped_and_the_next_one_is_whole",
        ),
    ),
    Promise(
        "a pool replaces a worker that dies, names a task that none survives, and ends with who started it",
        ("jobs/test_pool.py", "jobs/test_engines.py"),
    ),
    Promise(
        "a folder is one job's or one training's alone, as long as that lives",
        (
            "jobs/test_run_folder.py::test_two_jobs_cannot_write_one_folder",
            "jobs/test_journal.py::test_a_folder_that_is_being_written_is_refused",
            "training/test_training_faults.py::test_a_second_training_in_the_folder_of_one_that_runs_is_refused",
        ),
    ),
    Promise(
        "other settings are refused by name, or said in a line each where a training may go on with them",
        (
            "jobs/test_run_folder.py::test_other_settings_are_refused_and_named",
            "training/test_training_faults.py::"
            "test_a_checkpoint_of_another_model_seed_or_batch_is_refused_and_says_what_differs",
            "training/test_training_faults.py::"
            "test_a_setting_that_changes_on_the_way_is_said_at_the_start_and_in_the_card",
        ),
    ),
    Promise(
        "a training with checkpoints never begins anew without a word",
        (
            "training/test_training_faults.py::test_latest_that_names_nothing_is_an_error_and_no_new_beginning",
            "training/test_training_faults.py::test_checkpoints_without_latest_are_gone_on_from_and_no_new_beginning",
        ),
    ),
    Promise(
        "a byte that changed in a finished file (features, centers, labels, shards, caches, the plan) is "
        "named when it is read, and by `onevision doctor --verify`",
        ("jobs/test_digests.py", "data/test_flipped_bytes.py"),
    ),
    Promise(
        "a damaged checkpoint, a damaged or missing shard and a full disk are named; what was whole stays",
        (
            "training/test_training_faults.py::"
            "test_a_damaged_checkpoint_is_an_error_that_names_the_file_and_what_is_left",
            "training/test_training_faults.py::test_a_full_disk_names_the_file_and_keeps_the_checkpoint_before",
            "data/test_patch_shards.py::test_a_missing_or_damaged_shard_is_named",
        ),
    ),
    Promise(
        "no file of others runs code: checkpoints, shards, caches",
        (
            "test_house.py::test_nothing_unpickles_what_it_is_given",
            "training/test_checkpoint_reading.py",
        ),
    ),
    Promise(
        "a damaged video is read or refused, within 5 s of a core and 512 MB, and arrays have their shapes",
        ("modeling/test_video_damage.py", "test_corpus.py"),
    ),
    Promise(
        "a truncated video is refused whole, or read in part where that is asked for, and says so",
        ("modeling/test_partial_files.py",),
    ),
    Promise(
        "files of a few bytes that ask for gigabytes are refused by number",
        (
            "modeling/test_bombs.py",
            "data/test_untrusted_sources.py::test_a_picture_of_hundreds_of_megabytes_in_a_few_kilobytes_is_refused",
        ),
    ),
    Promise(
        "reading a video opens the named file and nothing else",
        ("modeling/test_safe_reading.py",),
    ),
    Promise(
        "what is fetched is bounded in time and size, and leads into no private network",
        ("modeling/test_remote_file.py", "modeling/test_url_access.py"),
    ),
    Promise(
        "folders with pipes, devices and loops, and manifests that lead out of them, do no harm",
        ("data/test_untrusted_sources.py",),
    ),
    Promise(
        "behind each packet that a decoder is given lie zeros in FFmpeg's own memory",
        ("modeling/test_packet_padding.py",),
    ),
    Promise(
        "numbers that are none, and scales without end, are refused by name",
        ("test_refused_numbers.py",),
    ),
)  # fmt: skip


def tests_of(promises: Iterable[Promise]) -> list[str]:
    """Every test that is named, once."""
    return list(dict.fromkeys(test for promise in promises for test in promise.tests))


def run(tests: list[str]) -> dict[str, dict[str, int]]:
    """What each gives now: cases that passed, trials in them, and cases that did not pass."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", f"--junitxml={report}"]
        subprocess.run([*command, *(f"tests/{test}" for test in tests)], cwd=ROOT)
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {test: {"cases": 0, "trials": 0, "lost": 0} for test in tests}
    for case in cases:
        module = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
        name = f"{module}::{case.get('name', '').partition('[')[0]}"
        kinds = {child.tag for child in case}
        for test in (module, name):
            if test not in found or "skipped" in kinds:
                continue
            if kinds & {"failure", "error"}:
                found[test]["lost"] += 1
                continue
            told = [p.get("value") for p in case.iter("property") if p.get("name") == "trials"]
            found[test]["cases"] += 1
            found[test]["trials"] += int(told[0] or 0) if told else 1
    return {test: result for test, result in found.items() if result["cases"] or result["lost"]}


def make_table(results: dict[str, dict[str, int]]) -> str:
    """The rows of all promises, from the results of their tests."""
    lines = ["| promise | test | trials | lost |", "|---|---|---:|---:|"]
    for promise in PROMISES:
        known = [results[test] for test in promise.tests if test in results]
        whole = len(known) == len(promise.tests)
        names = "<br>".join(f"`{test}`" for test in promise.tests)
        trials, lost = (sum(result[key] for result in known) for key in ("trials", "lost"))
        lines.append(f"| {promise.text} | {names} | {trials if whole else '-'} | {lost if whole else '-'} |")
    return "\n".join(lines)


def write_page(results: dict[str, dict[str, int]]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from codec_table import write_between_markers

    write_between_markers(PAGE, make_table(results), START, END)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="text that a promise or its tests have")
    parser.add_argument("--write", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not arguments.write:
        chosen = [p for p in PROMISES if arguments.only in p.text or arguments.only in " ".join(p.tests)]
        results |= run(tests_of(chosen))
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    results = {test: results[test] for test in tests_of(PROMISES) if test in results}
    write_page(results)
    lost = [test for test, result in results.items() if result["lost"]]
    print(f"{sum(result['trials'] for result in results.values())} trials; lost: {', '.join(lost) or 'none'}")
    return 1 if lost else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
