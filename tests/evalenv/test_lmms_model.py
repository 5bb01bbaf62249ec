"""The plugin in the stock lmms-eval: both protocols, the journal, broken media, losses, rounds."""

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmms_eval.models
import pytest
import torch
from lmms_eval import evaluator
from stand_ins import right

from onevision_hf.eval.lmms.answering import Answering
from onevision_hf.eval.lmms.model import EvaluationStopped, OneVisionChat, OneVisionSimple
from onevision_hf.eval.lmms.questions import Answer
from onevision_hf.eval.lmms.run import task_manager_of
from onevision_hf.eval.lmms.scores import read_rows
from onevision_hf.eval.lmms.settings import join_processes
from onevision_hf.eval.lmms.suite import select

ALL = "all16,openvision3"


@pytest.fixture
def run(mirror: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """run("videomme", sampling="frames") -> (the model, lmms-eval's results)."""

    def go(names: str, protocol: type = OneVisionChat, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        settings = {
            "pretrained": str(tiny_folder),
            "device": "cpu",
            "max_new_tokens": 4,
            "journal": str(tmp_path / "answers"),
        }
        if arguments.get("sampling", "codec") == "codec":
            settings |= {"num_frames": 8, "num_patches": 64}
        model = protocol(**settings | arguments)
        try:
            rows = select(names)
            results = evaluator.simple_evaluate(
                model=model,
                tasks=list(dict.fromkeys(row.task for row in rows)),
                task_manager=task_manager_of(rows),
                bootstrap_iters=0,
                log_samples=True,
                cli_args=Namespace(output_path=str(tmp_path / "out"), process_with_media=False),
            )
        finally:
            if model.journal is not None:
                model.journal.close()
        return model, results

    return go


def answers_of(results: dict[str, Any]) -> dict[tuple[str, int], Any]:
    return {
        (task, sample["doc_id"]): sample["resps"]
        for task, samples in results["samples"].items()
        for sample in samples
    }


@pytest.fixture
def knows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's answers are the right ones; reading and all else is as it is."""

    def texts(self: Answering, batch: list[Any]) -> list[Any]:
        found = []
        for prompt in batch:
            parts = prompt.question.tag[0].parts
            document = parts.owner.dataset[parts.split][parts.doc_id]
            found.append((prompt.question, Answer(right(parts.task, document))))
        return found

    monkeypatch.setattr(Answering, "_texts", texts)


@pytest.fixture
def damaged(mirror: Path) -> Iterator[None]:
    """Of MLVU one clip is missing and one cut off, of TOMATO one is missing (two ways of a task to fail)."""
    missing = [mirror / "mlvu/video-0.mp4", mirror / "TOMATO/human/1.mp4"]
    cut = mirror / "mlvu/video-1.mp4"
    kept = {path: path.read_bytes() for path in (*missing, cut)}
    for path in missing:
        path.unlink()
    cut.write_bytes(kept[cut][:900])
    yield
    for path, content in kept.items():
        path.write_bytes(content)


def test_lmms_eval_finds_the_model_by_its_entry_point():
    assert lmms_eval.models.get_model("onevision") is OneVisionChat
    assert lmms_eval.models.get_model("onevision", force_simple=True) is OneVisionSimple


def test_an_unknown_argument_is_an_error(tiny_folder: Path):
    with pytest.raises(ValueError, match=r"takes no argument 'num_frame'; did you mean num_frames\?"):
        OneVisionChat.create_from_arg_string(f"pretrained={tiny_folder},num_frame=8", {"batch_size": 1})


def test_task_files_find_videos_where_nobody_set_hf_home(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HOME")
    OneVisionChat(pretrained=str(tiny_folder), device="cpu", journal="none")
    assert Path(os.environ["HF_HOME"]).is_absolute()


def test_a_folder_without_a_multimodal_model_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        OneVisionChat(pretrained=str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="is no folder"):
        OneVisionChat(pretrained="nobody/nothing", device="cpu")


def test_a_model_runs_through_all_and_a_second_run_asks_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    model, results = run(ALL)
    count = sum(sizes["original"] for sizes in results["n-samples"].values())
    assert model.answering.statistics.questions == count and not model.broken
    figures = {row.name: row.figure for row in read_rows(results, select(ALL))}
    assert all(0 <= figure <= 100 for figure in figures.values())  # type: ignore[operator]

    def generate(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was run again")

    monkeypatch.setattr("onevision_hf.OneVisionVLForConditionalGeneration.generate", generate)
    again, repeated = run(ALL)
    assert again.reused == count and again.answering.statistics.questions == 0
    assert answers_of(repeated) == answers_of(results)


def test_other_weights_and_other_settings_use_no_answer(run: Any, tiny_folder: Path, tmp_path: Path):
    first, _ = run("videomme")
    assert first.answering.statistics.questions == 6
    for changes in ({"num_patches": 48}, {"sampling": "frames"}, {"max_new_tokens": 3}):
        other, _ = run("videomme", **changes)
        assert other.reused == 0, changes
    from vl_tiny import tiny_model

    weights = tmp_path / "other"
    shutil.copytree(tiny_folder, weights)
    tiny_model("patch_merger", seed=1).save_pretrained(weights)
    other, _ = run("videomme", pretrained=str(weights))
    assert other.reused == 0
    # Speed is no setting that counts.
    same, _ = run("videomme", batch_size=1, token_budget=512)
    assert same.reused == 6


def test_the_simple_protocol_gives_the_same_answers(run: Any):
    names = "videomme,docvqa_val"
    _, chat = run(names, journal="none")
    _, simple = run(names, OneVisionSimple, journal="none")
    assert answers_of(simple) == answers_of(chat)


def test_broken_media_count_as_wrong_and_are_listed(run: Any, damaged: None, knows_everything: None):
    model, results = run("mlvu_dev,tomato")
    figures = {row.benchmark.task: row.figure for row in read_rows(results, select("mlvu_dev,tomato"))}
    # Two questions are about each of MLVU's clips, of seven types with one question each.
    assert figures["mlvu_dev"] == pytest.approx(100 * 3 / 7)
    assert figures["tomato"] == pytest.approx(100 * 2 / 3)
    broken = {(item.task, item.doc_id): item for item in model.broken}
    assert set(broken) == {("mlvu_dev", 0), ("mlvu_dev", 1), ("mlvu_dev", 2), ("mlvu_dev", 3), ("tomato", 1)}
    assert "does not exist" in broken["mlvu_dev", 0].reason
    assert broken["mlvu_dev", 2].media.endswith("video-1.mp4")
    assert "no image and no video" in broken["tomato", 1].reason
    assert {item.counted for item in broken.values()} == {"wrong"}
    listed = (model.journal.folder / "broken-0.jsonl").read_text().splitlines()
    assert len(listed) == 5


def test_broken_media_can_be_left_out(run: Any, damaged: None, knows_everything: None):
    model, results = run("mlvu_dev,tomato", on_error="skip")
    skipped = [(item.task, item.doc_id) for item in model.broken if item.counted == "skipped"]
    rows = {row.benchmark.task: row for row in read_rows(results, select("mlvu_dev,tomato"), skipped)}
    assert (rows["tomato"].figure, rows["tomato"].documents) == (pytest.approx(100), 2)
    assert rows["mlvu_dev"].documents == 3


def test_broken_media_can_stop_the_run(run: Any, damaged: None):
    with pytest.raises(EvaluationStopped, match=r"mlvu_dev, question \d: .*mend it"):
        run("mlvu_dev", on_error="stop")


def test_mended_media_are_read_the_next_time(run: Any, mirror: Path, knows_everything: None):
    path = mirror / "mlvu/video-0.mp4"
    content = path.read_bytes()
    path.unlink()
    try:
        run("mlvu_dev")
    finally:
        path.write_bytes(content)
    model, results = run("mlvu_dev")
    assert not model.broken and model.reused == 5
    assert read_rows(results, select("mlvu_dev"))[0].figure == pytest.approx(100)


def test_losses_choose_as_the_models_own_losses_do(run: Any, mirror: Path, tiny_folder: Path, tmp_path: Path):
    """The task with a loss for each choice, which lmms-eval runs with the simple protocol."""
    model = OneVisionSimple(
        pretrained=str(tiny_folder), device="cpu", num_frames=8, num_patches=64, journal=str(tmp_path)
    )
    seen: list[tuple[float, bool]] = []
    losses = model.loglikelihood

    def loglikelihood(requests: Any) -> Any:
        found = losses(requests)
        seen.extend(result.text for result in found)
        return found

    model.loglikelihood = loglikelihood  # type: ignore[method-assign]
    results = evaluator.simple_evaluate(
        model=model,
        tasks=["seedbench_ppl"],
        task_manager=task_manager_of(select("seedbench")),
        bootstrap_iters=0,
        log_samples=True,
    )
    model.journal.close()
    samples = results["samples"]["seedbench_ppl"]
    assert len(seen) == 4 * len(samples) and len({loss for loss, _ in seen}) > 4
    for number, sample in enumerate(samples):
        own = [loss for loss, _ in seen[4 * number : 4 * number + 4]]
        chosen = "ABCD"[own.index(min(own))]
        assert sample["acc"] == (chosen == sample["doc"]["answer"])


@pytest.mark.parametrize("target", [1, "1", "B"])
def test_the_right_choice_has_the_most_loss_where_media_are_broken(tiny_folder: Path, target: Any):
    class Owner:
        def doc_to_visual(self, document: Any) -> None:
            sys.exit("its file is missing")

        def doc_to_target(self, document: Any) -> Any:
            return target

    model = OneVisionSimple(pretrained=str(tiny_folder), device="cpu", journal="none")
    model.task_dict = {"any": {"test": [{}]}}
    requests = [
        SimpleNamespace(args=("?", f" {text}", Owner().doc_to_visual, 0, "any", "test"), metadata={}, idx=i)
        for i, text in enumerate("ABC")
    ]
    losses = [result.text[0] for result in model.loglikelihood(requests)]
    assert losses.index(min(losses)) != 1 and max(losses) == losses[1]
    assert len(model.broken) == 3


def test_rounds_go_on_until_the_task_is_done(tiny_folder: Path):
    """Two requests whose tasks want two and three rounds; each round shows what was answered before."""
    model = OneVisionChat(pretrained=str(tiny_folder), device="cpu", max_new_tokens=3, journal="none")
    model.task_dict = {"rounds": {"test": [{"wanted": 2}, {"wanted": 3}]}}
    shown: list[Any] = []

    def doc_to_messages(
        document: Any, round_idx: int = 0, previous_output: Any = None, previous_round_info: Any = None
    ):
        shown.append((document["wanted"], round_idx, previous_output, previous_round_info))
        messages = [{"role": "user", "content": [{"type": "text", "text": f"round {round_idx}"}]}]
        if not round_idx:
            return messages
        return messages, round_idx == document["wanted"], previous_output, f"note {round_idx}"

    requests = [
        SimpleNamespace(args=("round 0", doc_to_messages, {}, doc_id, "rounds", "test"), metadata={})
        for doc_id in (0, 1)
    ]
    outputs = model.generate_until_multi_round(requests)
    assert [len(rounds) for rounds in outputs] == [2, 3]
    assert outputs[0] == outputs[1][:2]  # the same prompts so far
    last = [entry for entry in shown if entry[0] == 3 and entry[1] == 2]
    assert last[0][2] == outputs[1][:2] and last[0][3] == "note 1"


def test_several_samples_of_one_question_are_several_answers(tiny_folder: Path, mirror: Path, tmp_path: Path):
    torch.manual_seed(0)
    model = OneVisionChat(pretrained=str(tiny_folder), device="cpu", max_new_tokens=6, journal=str(tmp_path))
    model.task_dict = {"any": {"test": [{}]}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Say"}]}]
    sampled, greedy = (
        SimpleNamespace(args=("Say", lambda _: messages, settings, 0, "any", "test"), metadata={})
        for settings in ({"do_sample": True, "temperature": 2.0}, {"temperature": 0})
    )
    answers = [result.text for result in model.generate_until([sampled] * 4 + [greedy] * 2)]
    model.journal.close()
    assert len(set(answers[:4])) > 1 and answers[4] == answers[5]
    assert model.answering.statistics.questions == 5


def test_processes_that_do_not_find_one_another_are_an_error(monkeypatch: pytest.MonkeyPatch):
    """As accelerate's launcher leaves them on processors: each takes itself for the only one."""
    alone = SimpleNamespace(num_processes=1)
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: alone)
    monkeypatch.setattr("accelerate.state.AcceleratorState._reset_state", lambda **_: None)
    assert join_processes() is alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started and 1 found one another; start them by"):
        join_processes()
