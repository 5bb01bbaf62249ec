"""`onevision synth`: folders with a manifest, whole files only, and the same bytes after an interruption."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onevision_hf.cli import main
from onevision_hf.synthetic import (
    CLIP_FAMILIES,
    ClipSettings,
    EncodingSettings,
    ImageSettings,
    Job,
    draw_clip,
    draw_image,
    encode,
    produce,
    read_manifest,
    unpack_masks,
)
from onevision_hf.synthetic.preview import event_frames

SMALL = ("--size", "32", "--num-frames", "32")
SETTINGS = ClipSettings(num_frames=32, height=32, width=32)


@pytest.fixture
def synth(capsys):
    """Run `onevision synth` in this process: (status, standard output, standard error)."""

    def run(*words):
        try:
            status = main(["synth", *map(str, words)])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def files_of(folder):
    """Name -> bytes of every file, hidden ones too, but for the manifest."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.suffix != ".parquet"
    }


def test_clips_of_a_family_lie_in_a_folder_for_each_label(synth, tmp_path):
    out = tmp_path / "new" / "clips"
    status, printed, _ = synth(
        "clips", "--out", out, "--count", 10, "--seed", 3, "--family", "direction", *SMALL
    )
    rows = read_manifest(out).to_pylist()
    assert status == 0 and "10 clips, 10 files made" in printed
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted(CLIP_FAMILIES["direction"].labels)
    assert [row["label"] for row in rows] == [*CLIP_FAMILIES["direction"].labels, "right", "down-right"]
    for index, row in enumerate(rows):
        assert row["path"] == f"{row['label']}/{index:06d}.mp4"
        clip = draw_clip(3, index, "direction", SETTINGS)
        assert (out / row["path"]).read_bytes() == encode(clip.frames)
        assert row["labels"] == clip.labels and row["labels"]["direction"] == row["label"]


def test_the_manifest_holds_the_truth_and_the_settings(synth, tmp_path):
    synth(
        "clips",
        "--out",
        tmp_path,
        "--count",
        4,
        *SMALL,
        "--background",
        "pan",
        "--codec",
        "mpeg4",
        "--gop",
        9,
    )
    table = read_manifest(tmp_path)
    families = json.loads(table.schema.metadata[b"families"])
    assert families["orbit"]["labels"] == ["clockwise", "counterclockwise"]
    for index, row in enumerate(table.to_pylist()):
        clip = draw_clip(0, index, settings=ClipSettings(32, 32, 32, "pan"))
        told, truth = row["truth"], clip.truth
        assert row["scene"] == clip.scene and told["sprites"] == truth.sprites
        assert np.array_equal(told["boxes"], truth.boxes)
        assert np.array_equal(told["velocity"], truth.velocity)
        assert np.array_equal(told["camera"], truth.camera)
        assert np.array_equal(
            unpack_masks(told["masks"], len(truth.sprites), tuple(told["shape"])), truth.masks
        )
        assert told["events"] == [vars(event) for event in truth.events]
        named = {"codec": "mpeg4", "gop": 9, "background": "pan", "num_frames": 32, "height": 32, "fps": 16}
        assert row["settings"].items() >= named.items() and "libavcodec" in row["settings"]["encoder"]
    with pytest.raises(ValueError, match="32768 pixels"):
        unpack_masks(told["masks"], 1, (32, 32, 31))


def test_images_come_with_captions_and_words(synth, tmp_path):
    status, _, _ = synth(
        "images", "--out", tmp_path, "--count", 6, "--family", "word", "--size", 64, "--split", "train"
    )
    assert status == 0
    for index, row in enumerate(read_manifest(tmp_path).to_pylist()):
        image = draw_image(0, index, "word", ImageSettings(64, 64, "train"))
        assert row["captions"] == image.captions and row["words"] == image.words == [row["label"]]
        assert np.array_equal(Image.open(tmp_path / row["path"]), image.pixels)
        assert np.array_equal(row["truth"]["boxes"], image.truth.boxes)


def test_three_questions_share_a_clip_and_a_named_family_asks_one(synth, tmp_path):
    synth("questions", "--out", tmp_path / "mixed", "--count", 7, *SMALL)
    rows = read_manifest(tmp_path / "mixed").to_pylist()
    assert [row["id"] for row in rows[-2:]] == ["000001-2", "000002-0"] and len(rows) == 7
    assert len({row["path"] for row in rows}) == 3
    for row in rows:
        assert row["choices"]["ABCD".index(row["answer"])] == row["label"] == row["labels"][row["family"]]
    synth("questions", "--out", tmp_path / "one", "--count", 3, "--family", "first", *SMALL)
    rows = read_manifest(tmp_path / "one").to_pylist()
    assert {row["family"] for row in rows} == {"first"} and len({row["path"] for row in rows}) == 3
    assert all((tmp_path / "one" / row["label"]).is_dir() for row in rows)


def test_json_is_one_document(synth, tmp_path):
    status, printed, said = synth("clips", "--out", tmp_path, "--count", 2, *SMALL, "--json", "--workers", 1)
    report = json.loads(printed)
    assert (status, said) == (0, "")
    assert (report["items"], report["made"], report["kept"], report["preview"]) == (2, 2, 0, None)


def test_a_preview_shows_the_events(synth, tmp_path):
    for kind, more in (("clips", SMALL), ("images", ("--size", "32")), ("questions", SMALL)):
        _, printed, _ = synth(kind, "--out", tmp_path / kind, "--count", 3, *more, "--preview")
        assert "preview.png" in printed
        with Image.open(tmp_path / kind / "preview.png") as sheet:
            assert sheet.width > 1000 and len(sheet.getcolors(2**24)) > 500
    for index in range(12):
        clip = draw_clip(0, index, "count", SETTINGS)
        times = event_frames(clip)
        assert len(times) <= 8 and times == sorted(set(times)) and times[0] >= 0 and times[-1] < 32
        assert all(any(e.start <= t < e.end for t in times) for e in clip.truth.events)


def test_an_interrupted_run_keeps_what_it_made_and_a_rerun_adds_the_rest(tmp_path):
    job, whole, broken = Job("clips", 5, clip=SETTINGS), tmp_path / "whole", tmp_path / "broken"
    produce(job, whole, 8)

    def interrupted(media, total):
        for number, medium in enumerate(media):
            if number == 3:
                raise KeyboardInterrupt
            yield medium

    with pytest.raises(KeyboardInterrupt):
        produce(job, broken, 8, progress=interrupted)
    begun = files_of(broken)
    assert 3 <= sum(name.endswith(".mp4") for name in begun) < 8
    assert not (broken / "manifest.parquet").exists() and not [n for n in begun if n.endswith(".tmp")]
    with pytest.raises(FileNotFoundError, match="finish the run"):
        read_manifest(broken)
    times = {path: path.stat().st_mtime_ns for path in broken.rglob("*.mp4")}
    report = produce(job, broken, 8)
    assert report["kept"] == len(times) and report["made"] == 8 - len(times)
    assert all(path.stat().st_mtime_ns == made for path, made in times.items())
    assert files_of(broken) == files_of(whole)
    assert read_manifest(broken).equals(read_manifest(whole))


def test_lost_and_empty_files_are_made_again_and_a_larger_count_adds(tmp_path):
    job = Job("images", image=ImageSettings(32, 32))
    produce(job, tmp_path, 4)
    before = files_of(tmp_path)
    (tmp_path / "media" / "000001.png").unlink()
    (tmp_path / "media" / "000002.png").write_bytes(b"")
    report = produce(job, tmp_path, 6)
    after = files_of(tmp_path)
    assert (report["made"], report["kept"]) == (4, 2) and read_manifest(tmp_path).num_rows == 6
    assert all(after[name] == content for name, content in before.items() if name.endswith(".png"))


def test_a_killed_run_leaves_whole_files_and_goes_on(tmp_path):
    job = Job("clips", 9)
    child = os.fork()
    if not child:
        os.nice(19)  # so that it is killed before it is done on a busy machine too
        with contextlib.suppress(BaseException):
            produce(job, tmp_path, 60)
        os._exit(0)
    while len(list(tmp_path.rglob("*.mp4"))) < 4:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    made = whole_files_of_a_killed_run(tmp_path, 60)
    report = produce(job, tmp_path, 60)
    assert report["kept"] == made and read_manifest(tmp_path).num_rows == 60
    assert not list(tmp_path.rglob(".*.tmp"))


def whole_files_of_a_killed_run(folder, count):
    """How many files there are, each of them whole."""
    made = {path.name: path.read_bytes() for path in folder.rglob("0*.mp4")}
    assert 4 <= len(made) < count and not (folder / "manifest.parquet").exists()
    for name, content in made.items():
        assert content == encode(draw_clip(9, int(name[:6])).frames)
    return len(made)


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    words = ["synth", "clips", "--out", str(tmp_path), "--count", "90", "--workers", "2", "--seed", "9"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.Popen(
        [sys.executable, "-m", "onevision_hf.cli", *words], env=environment, start_new_session=True
    )
    try:
        while run.poll() is None and len(list(tmp_path.rglob("*.mp4"))) < 4:
            time.sleep(0.002)
    finally:
        run.kill()
        run.wait()
    while _alive_in_group(run.pid):  # its workers find nobody to send to; the test's time limit is the limit
        time.sleep(0.05)
    whole_files_of_a_killed_run(tmp_path, 90)


def _alive_in_group(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_folder_of_other_things_is_refused_with_the_difference(synth, tmp_path):
    out = tmp_path / "clips"
    synth("clips", "--out", out, "--count", 3, *SMALL)
    before = files_of(out)
    for more, said in (
        (("--seed", 1), "seed was 0, now 1"),
        (("--family", "orbit"), "family was None, now 'orbit'"),
        (("--gop", 8), "gop was 32, now 8"),
        (("--count", 2), "is a run of 3; ask for as many or more, found count=2"),
    ):
        status, _, printed = synth("clips", "--out", out, "--count", 3, *SMALL, *more)
        assert status == 1 and said in printed and printed.count("\n") == 1
    status, _, printed = synth("images", "--out", out, "--count", 3)
    assert status == 1 and "kind was 'clips', now 'images'" in printed
    assert files_of(out) == before
    (tmp_path / "notes.txt").write_text("mine")
    status, _, printed = synth("clips", "--out", tmp_path, "--count", 3, *SMALL)
    assert status == 1 and "holds other files" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clips", "--count", "0"), "count is at least 1, found 0"),
        (("images", "--count", "-5"), "count is at least 1, found -5"),
        (("questions", "--count", "1", "--codec", "h263"), "no codec is called 'h263'; choose one of h264"),
        (
            ("clips", "--count", "1", "--family", "colour"),
            "no family is called 'colour'; choose one of direction",
        ),
        (
            ("images", "--count", "1", "--family", "direction"),
            "no family is called 'direction'; choose one of object",
        ),
        (("clips", "--count", "1", "--seed", "-1"), "a seed counts from 0, found -1"),
        (("clips", "--count", "1", "--workers", "0"), "workers is at least 1, found 0"),
        (("clips", "--count", "1", "--quality", "99"), "1 to 51, found 99"),
        (("clips", "--count", "1", "--bframes", "9"), "found bframes=9"),
        (("clips", "--count", "1", "--size", "33"), "33 x 33"),
        (("images", "--count", "1", "--split", "half"), "'half'"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(synth, tmp_path, words, said):
    status, _, printed = synth(*words, "--out", tmp_path / "out")
    assert status == 1 and said in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_finished_files_are_kept(synth, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    synth("clips", "--out", tmp_path, "--count", 2, *SMALL)
    before = files_of(tmp_path)
    (tmp_path / "media" / ".000002.mp4.tmp").symlink_to("/dev/full")
    status, _, printed = synth("clips", "--out", tmp_path, "--count", 4, *SMALL)
    assert status == 1 and "No space left" in printed and "finished files are kept" in printed
    kept = files_of(tmp_path)
    assert all(kept[name] == content for name, content in before.items() if name.endswith(".mp4"))
    assert synth("clips", "--out", tmp_path, "--count", 4, *SMALL)[0] == 0
    assert read_manifest(tmp_path).num_rows == 4


def test_a_folder_that_cannot_be_written_to_is_said(synth, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, printed = synth("clips", "--out", tmp_path / "file" / "out", "--count", 1, *SMALL)
    assert status == 1 and "cannot write into" in printed and "Not a directory" in printed


def test_a_folder_of_somebody_else_is_said(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # the superuser may write anywhere, so somebody else tries
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                produce(Job("clips", clip=SETTINGS), locked, 1)
            except OSError as error:
                os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert "cannot write into" in said and "Permission denied" in said


def test_a_read_only_file_system_is_said(tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError(30, "Read-only file system", str(target))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=r"cannot write into .*Read-only file system"):
        produce(Job("clips", clip=SETTINGS), tmp_path, 1)


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    job = Job("images", image=ImageSettings(32, 32))

    def meanwhile(media, total):
        with pytest.raises(ValueError, match="written by another process"):
            produce(job, tmp_path, 2)
        return media

    produce(job, tmp_path, 2, progress=meanwhile)


def test_without_pyarrow_the_extra_is_named_before_anything_is_drawn(synth, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, printed = synth("clips", "--out", tmp_path / "out", "--count", 1, *SMALL)
    assert status == 1 and "pip install '.[train]'" in printed and not (tmp_path / "out").exists()


def test_another_encoder_does_not_go_on_with_a_folder(tmp_path, monkeypatch):
    job = Job("clips", clip=SETTINGS, encoding=EncodingSettings("mpeg4"))
    produce(job, tmp_path, 1)
    monkeypatch.setattr("onevision_hf.synthetic.folder.encoder_version", lambda: "PyAV 0")
    with pytest.raises(ValueError, match=r"encoder was 'PyAV .*', now 'PyAV 0'"):
        produce(job, tmp_path, 2)


@pytest.mark.slow
def test_processes_give_what_one_gives(tmp_path):
    job = Job("clips", clip=SETTINGS)
    for workers in (1, 3):
        produce(job, tmp_path / str(workers), 10, workers=workers)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")
    assert read_manifest(tmp_path / "1").equals(read_manifest(tmp_path / "3"))
