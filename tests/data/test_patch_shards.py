"""Patch shards hold what the processor cuts from the clips; the same bytes whoever makes them."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpora import CLASSES, SETTINGS, WORDS, contents, rejected, write_corpus

from onevision_hf import OneVisionVideoProcessor, select_patches
from onevision_hf.cli import main
from onevision_hf.data.corpus import ITEMS, read_items
from onevision_hf.data.items import MediaError
from onevision_hf.data.media_shards import STAGE as PACK
from onevision_hf.data.media_shards import PackedExample, write_shard
from onevision_hf.data.patch_extraction import MAX_DEATHS, Deaths, extract_patches
from onevision_hf.data.patch_shards import STAGE, PatchShards
from onevision_hf.data.tar_shards import shard_names
from onevision_hf.jobs.digests import DIGESTS
from onevision_hf.jobs.run_folder import RunFolder, digest_of
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.modeling.signal_settings import BITS_VERSION, SIGNALS_VERSION


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """The shards of the corpus, made in this process."""
    out = tmp_path_factory.mktemp("made") / "shards"
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    return out


def test_a_row_is_what_the_processor_cuts(corpus, made):
    shards = PatchShards(made)
    assert len(shards) == 10 and shards.shard_rows == [4, 3, 3] and shards.classes == 3
    keys = [shards[number].key for number in range(10)]
    assert keys == sorted(keys)
    processor = OneVisionVideoProcessor(
        num_frames=6, size={"shortest_edge": 56}, do_center_crop=True, rope_temporal_size=None
    )
    for number in (0, 5, -1):
        row, path = shards[number], corpus / shards[number].key
        expected = processor(
            str(path), num_patches=40, do_rescale=False, do_normalize=False, return_metadata=True
        )
        assert row.patches.dtype == np.uint8 and row.patches.shape == (40, 3, 14, 14)
        assert np.array_equal(row.patches.reshape(40, -1), expected["pixel_values_videos"][0])
        assert np.array_equal(row.positions, expected["patch_positions"][0])
        (selection,) = expected["selections"]
        assert np.array_equal(row.times, selection.timestamps) and row.signal == selection.signal
        assert row.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row.labels.tolist() == [CLASSES.index(path.parent.name)]
        assert (row.width, row.height, row.frames, row.num_frames) == (96, 64, 12, 6)
    with pytest.raises(IndexError, match="row 10 of 10"):
        shards[10]


def test_what_cannot_be_read_is_listed_and_a_short_clip_gives_all_it_has(made):
    reasons = rejected(made)
    assert set(reasons) == {"right/cut.mp4", "up/text.mp4"}
    assert "not a video that FFmpeg can read" in reasons["right/cut.mp4"]
    assert "is text, not a video" in reasons["up/text.mp4"]
    shards = PatchShards(made)
    (short,) = [row for row in map(shards.__getitem__, range(len(shards))) if row.key == "left/short.mp4"]
    assert short.num_frames == 2 and len(short.patches) == short.num_patches == 32


def test_workers_change_nothing(corpus, made, tmp_path):
    extract_patches(str(corpus), tmp_path / "two", SETTINGS, shard_items=4, workers=2)
    assert contents(tmp_path / "two") == contents(made)


def test_the_tars_are_webdatasets(made):
    with tarfile.open(made / "patches-00000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == [f"000000000.{n}" for n in ("patches.npy", "positions.npy", "times.npy", "json")]
        assert np.load(io.BytesIO(tar.extractfile(names[0]).read())).shape == (40, 3, 14, 14)
        assert json.load(tar.extractfile(names[3]))["key"] == PatchShards(made)[0].key


def test_a_folder_of_other_settings_is_refused_and_redone_when_asked(corpus, made, tmp_path):
    out = tmp_path / "shards"
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    other = SETTINGS.replace(num_frames=4)
    with pytest.raises(ValueError, match=r"num_frames was 6, now 4.*--redo"):
        extract_patches(str(corpus), out, other, shard_items=4, workers=0)
    assert contents(out) == contents(made)
    before = PatchShards(out)
    assert (before[0].num_frames, len(before[0].times)) == (6, 6)
    extract_patches(str(corpus), out, other, shard_items=4, workers=0, redo=True)
    row = PatchShards(out)[0]
    assert (row.num_frames, len(row.times)) == (4, 4), "no index of before beside the new arrays"
    with pytest.raises(OSError, match="was made again, another way, since it was opened: open it anew"):
        before[0]
    with pytest.raises(ValueError, match="was made by 'patches', expected 'pack'"):
        from onevision_hf.data.media_shards import PackedShards

        PackedShards(out)


def test_a_missing_or_damaged_shard_is_named(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    index = tmp_path / "copy" / "patches-00001.index.parquet"
    index.write_bytes(index.read_bytes()[:50])
    shards = PatchShards(tmp_path / "copy")
    assert shards[0].key == PatchShards(made)[0].key
    with pytest.raises(OSError, match=r"patches-00001.index.parquet is damaged"):
        shards[4]
    index.unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 6 files, patches-00001.index.parquet the first"):
        PatchShards(tmp_path / "copy")


def test_a_clip_over_which_workers_die_is_left_out(corpus, tmp_path):
    out = tmp_path / "shards"
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    (out / "patches-00000.index.parquet").unlink()
    (out / ".trying-00000.json").write_text(json.dumps({"left/1.mp4": MAX_DEATHS}))
    summary = extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    assert summary["rejected"] == 3 and "workers died" in rejected(out)["left/1.mp4"]
    assert not list(out.glob(".trying*"))


def test_deaths_count_within_a_run_and_only_over_clips_that_were_never_read(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text(json.dumps({"slow": MAX_DEATHS - 1, "deadly": MAX_DEATHS}))
    notes = Deaths(path)
    notes.begin("slow")  # this time it is read,
    notes.end("slow")
    notes.begin("next")  # and the worker dies later
    assert json.loads(path.read_text()) == {"deadly": MAX_DEATHS, "next": 1}
    Deaths(path).pardon()  # the run was killed: no fault of the clip that was being read
    again = Deaths(path)
    with pytest.raises(MediaError, match="3 workers died"):
        again.begin("deadly")
    assert json.loads(path.read_text()) == {"deadly": MAX_DEATHS}


def test_a_run_goes_on_where_the_clips_lie_now(corpus, made, tmp_path, monkeypatch):
    """The source is named by a relative path, and is moved while half of the shards are there."""
    shutil.copytree(corpus, tmp_path / "old" / "clips")
    monkeypatch.chdir(tmp_path / "old")
    out = tmp_path / "shards"
    extract_patches("clips", out, SETTINGS, shard_items=4, workers=0)
    assert contents(out)["patches-00001.tar"] == contents(made)["patches-00001.tar"]
    for name in ("patches-00001.index.parquet", "summary.json"):
        (out / name).unlink()
    (tmp_path / "old" / "clips").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    extract_patches("new", out, SETTINGS, shard_items=4, workers=0)
    paths = [item.path for item, _ in read_items(out / ITEMS, 0)]
    assert all(path.startswith(str(tmp_path / "new")) for path in paths)
    one, two = contents(out), contents(made)
    for name in (ITEMS, DIGESTS):  # which say where the clips lie, and what the former holds
        assert one.pop(name) != two.pop(name)
    assert one == two


def test_a_killed_worker_costs_nothing(corpus, made, tmp_path):
    out, killed = tmp_path / "shards", []
    watcher = threading.Thread(target=kill_a_writer, args=(out, killed), daemon=True)
    watcher.start()
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=2)
    watcher.join(5)
    assert killed and contents(out) == contents(made)


def kill_a_writer(out, killed):
    """kill -9 the first process that is seen to write a shard: its number is in the file's name."""
    for _ in range(100_000):
        for file in out.glob(".patches-*.tmp"):
            pid = int(file.name.removesuffix(".tmp").rpartition("-")[2])
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
        time.sleep(0.001)


@pytest.mark.slow
def test_a_killed_driver_costs_what_it_was_writing(corpus, made, tmp_path):
    out = tmp_path / "shards"
    words = [str(corpus), str(out), "--shard-items", "4", "--workers", "1", *WORDS]
    process = subprocess.Popen([sys.executable, "-m", "onevision_hf.cli", "patches", *words])
    wait_for(out, "patches-00000.index.parquet", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = (out / "patches-00000.tar").stat()
    assert not (out / "summary.json").exists()
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    assert contents(out) == contents(made)
    assert (out / "patches-00000.tar").stat().st_mtime_ns == kept.st_mtime_ns  # not written twice


def test_a_worker_killed_just_after_its_shard_leaves_no_note(corpus, made, tmp_path):
    """The shard is there, so no worker does it again and takes the note back."""
    out = tmp_path / "shards"
    shutil.copytree(made, out)
    (out / "summary.json").unlink()
    (out / ".trying-00001.json").write_text("{}")
    extract_patches(str(corpus), out, SETTINGS, shard_items=4, workers=0)
    assert contents(out) == contents(made)


def wait_for(out, name, process):
    for _ in range(60_000):
        if (out / name).exists():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)


def test_a_finished_folder_is_not_touched_again(corpus, made):
    def times():
        return {file.name: file.stat().st_mtime_ns for file in made.iterdir() if ".lock" not in file.name}

    before = times()
    summary = extract_patches(str(corpus), made, SETTINGS, shard_items=4, workers=0)
    assert summary["items"] == 10 and summary["patches"] == 9 * 40 + 32
    assert times() == before


def test_labels_come_from_a_pack_as_they_are(corpus, tmp_path):
    paths = [corpus / "left" / "0.mp4", corpus / "up" / "1.mp4"]
    rows = [
        PackedExample(path.stem, "video", "video", "mp4", path.read_bytes(), np.array([7 + n, 2]), np.ones(2),
                  96, 64, 12, 0.5)
        for n, path in enumerate(paths)
    ]  # fmt: skip
    pack = tmp_path / "pack"
    with RunFolder(pack, stage=PACK, settings={"head": "video", "layout": "tar"}, sources="x") as run:
        tar, index = shard_names("video", 0)
        with run.shard(index, tar) as (index_path, tar_path):
            write_shard(rows, [tar_path, index_path])
        run.finish({"classes": 9, "rows": [2]})
    extract_patches(str(pack), tmp_path / "shards", SETTINGS, workers=0)
    shards = PatchShards(tmp_path / "shards")
    assert shards.classes == 9 and [row.labels.tolist() for row in (shards[0], shards[1])] == [[7, 2], [8, 2]]


def test_the_command_says_what_it_made_and_refuses_in_one_line(corpus, made, tmp_path, capsys, monkeypatch):
    out = tmp_path / "shards"
    words = ["patches", str(corpus), str(out), "--shard-items", "4", "--workers", "0", *WORDS]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "10 clips in 3 shards" in text and "2 clips could not be used" in text
    assert contents(out) == contents(made)
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 10

    def error_of(*words):
        assert main(["patches", *map(str, words)]) == 1
        return capsys.readouterr().err.splitlines()[-1]  # after the progress

    assert "num_frames was 6, now 5" in error_of(corpus, out, *WORDS, "--num-frames", 5, "--shard-items", 4)
    assert "does not exist" in error_of(tmp_path / "absent", tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert "no pictures or videos" in error_of(tmp_path / "empty", tmp_path / "b")
    assert "both given" in error_of(corpus, tmp_path / "c", "--num-patches", 9, "--keep-ratio", 0.5)
    assert "keep_energy must be in (0, 1]" in error_of(corpus, tmp_path / "c", "--keep-energy", 90)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install '.[ray]'" in error_of(corpus, tmp_path / "d", "--engine", "ray")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.mp4").write_text("no video")
    assert "none of the 1 clips could be used" in error_of(bad, tmp_path / "e", "--workers", 0)


def test_whole_frames_and_ratios_are_settings_too(corpus, tmp_path):
    settings = SETTINGS.replace(num_frames=4, keep_ratio=0.5, do_center_crop=False)
    extract_patches(str(corpus), tmp_path / "wide", settings, workers=0)
    row = PatchShards(tmp_path / "wide")[0]
    expected = select_patches(str(corpus / row.key), num_frames=4, size=56, keep_ratio=0.5)
    assert (row.grid_height, row.grid_width) == (4, 6)
    assert np.array_equal(row.positions, expected.positions)


def test_a_share_of_the_energy_gives_rows_of_their_own_lengths(corpus, tmp_path, capsys):
    words = ["--num-frames", "8", "--size", "56", "--keep-energy", "0.5", "--workers", "0", "--whole-frame"]
    assert main(["patches", str(corpus), str(tmp_path / "followed"), *words, "--errors", "skip"]) == 0
    shards = PatchShards(tmp_path / "followed")
    assert (shards.config.budget.keep_energy, shards.config.budget.keep_ratio) == (0.5, 0.25)
    for row in [shards[number] for number in range(len(shards))]:
        expected = select_patches(str(corpus / row.key), num_frames=8, size=56, keep_energy=0.5)
        assert np.array_equal(row.positions, expected.positions)


def test_shards_of_an_older_version_are_refused_with_the_command_that_cuts_again(tmp_path):
    old = {"num_frames": 64, "size": 224, "crop": True, "layout": "tar", "shard_items": 256, "classes": None}
    with RunFolder(tmp_path / "old", stage=STAGE, settings=old, sources="clips") as run:
        run.finish({"rows": []})
    with pytest.raises(ValueError, match=r"older version.*onevision patches SRC .*old --redo"):
        PatchShards(tmp_path / "old")


def test_what_was_cut_by_the_signals_of_before_is_not_taken_for_equal(corpus, made, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(made, old)
    plan = json.loads((old / "plan.json").read_text())
    assert plan["settings"].pop("signals_version") == SIGNALS_VERSION and "passes" not in plan["settings"]
    summary = json.loads((old / "summary.json").read_text()) | {"plan": digest_of(plan)}
    (old / "plan.json").write_text(json.dumps(plan))
    (old / "summary.json").write_text(json.dumps(summary))
    for file in old.glob("digests*.json"):  # which a version of before did not write
        file.unlink()
    with pytest.raises(ValueError, match=r"signals_version was None, now 3.*--redo"):
        extract_patches(str(corpus), old, SETTINGS, shard_items=4, workers=0)
    assert len(PatchShards(old)) == 10  # H.264, whose signals are as ever
    other = tmp_path / "other"  # an index that was read is kept
    shutil.copytree(old, other)
    index = other / shard_names(STAGE, 0)[1]
    table = pq.read_table(index)
    place = table.column_names.index("signal")
    pq.write_table(table.set_column(place, "signal", [["difference"] * len(table)]), index)
    with pytest.raises(ValueError, match=r"4 of its clips by 'difference'.*VP9.*--redo"):
        PatchShards(other)


def test_only_settings_whose_signals_changed_are_recorded_with_a_version():
    for settings, version in (
        ({}, SIGNALS_VERSION),
        ({"preset": "published"}, None),
        ({"signals": ("residual",)}, None),
        ({"preset": "bits"}, BITS_VERSION),
        ({"signals": ("residual", "bits")}, BITS_VERSION),
    ):
        config = SETTINGS.replace(**settings)
        recorded = json.loads(json.dumps(config.recorded()))
        assert recorded.get("signals_version") == version and "passes" not in recorded
        assert PatchifyConfig.from_recorded(recorded) == config
    twice = SETTINGS.replace(passes=2)
    assert PatchifyConfig.from_recorded(twice.recorded()) == twice


def test_sizes_that_fit_no_patch_are_found_before_the_clips_are_read(corpus, tmp_path):
    with pytest.raises(ValueError, match="no multiple of the patch size 14"):
        extract_patches(str(corpus), tmp_path / "out", SETTINGS.replace(size=60), workers=0)
    assert not (tmp_path / "out").exists()
