"""The page, the figure, the goals and the command."""

import json
from dataclasses import replace

import pytest
from motion_worlds import ONE_TRIAL
from PIL import Image

from onevision_hf.cli import main
from onevision_hf.eval import motion
from onevision_hf.eval.motion.figure import draw
from onevision_hf.eval.motion.report import into_page, page
from onevision_hf.eval.motion.settings import FAMILIES, MOTION, SUBSETS, SuiteSettings
from onevision_hf.eval.motion.summary import Results, goals
from onevision_hf.synthetic import CLIP_FAMILIES

SETTINGS = SuiteSettings(seeds=(0, 1), budgets=(1 / 16, 1 / 8))
LABELS = {name: CLIP_FAMILIES[name].labels for name in FAMILIES}
ALIKE = {"codec": 0.8, "uniform": 0.4, "difference_all": 0.6, "positions": 0.5, "dense": 0.9}


def made_up(scores: dict[str, float], ceiling: float = 0.5) -> Results:
    """Cells in which an input answers every family equally well, the second seed by a point better."""
    found = []
    for name, score in scores.items():
        for budget in (1.0,) if name == "dense" else SETTINGS.budgets:
            for seed in SETTINGS.seeds:
                value = score + 0.01 * seed
                accuracy = {f: dict.fromkeys(SUBSETS, value) | {"clips": 9} for f in FAMILIES}
                trial = {"mode": "scratch", "input": name, "budget": budget, "seed": seed}
                found.append(
                    {
                        "settings": {"trial": trial},
                        "accuracy": accuracy,
                        "seconds": 1,
                        "cpu_seconds": 60,
                        "device": "cpu",
                    }
                )
                if name == "codec":
                    found[-1]["interventions"] = {"mirror_time": accuracy}
    views = dict.fromkeys(SUBSETS, ceiling)
    return Results(LABELS, found, {f"{b:g}": dict.fromkeys(FAMILIES, views) for b in SETTINGS.budgets})


def test_goals_are_met_or_not_by_the_figures():
    met = {goal["goal"]: goal for goal in goals(made_up(ALIKE))}
    assert all(goal["met"] for goal in met.values()) and len(met) == 7
    over = met["codec over the ceiling of uniform frames, motion families"]
    assert over["value"] == pytest.approx(0.305)
    missed = goals(made_up(ALIKE | {"uniform": 0.2}, ceiling=0.75))
    assert [goal["met"] for goal in missed] == [False, *[True] * 5, False]
    assert missed[-1]["value"] == 0, "0.205 is less than ten points above an eighth"
    absent = goals(made_up({"codec": 0.8}))
    assert [goal["met"] for goal in absent] == [True, *[None] * 5]


def test_the_page_prints_chance_ceiling_and_positions_in_every_table():
    results = made_up(ALIKE)
    document = {
        "families": LABELS, "trials": results.trials, "ceilings": results.ceilings, "goals": goals(results),
        "clips": {"train": 1, "test": 1, "rejected": []}, "model": None,
    }  # fmt: skip
    text = page(document, SETTINGS, "images/x.png")
    tables = [part for part in text.split("\n\n") if part.startswith("| family")]
    assert len(tables) == 4
    for table in tables:
        header = [trial.strip() for trial in table.splitlines()[0].strip("| ").split("|")]
        assert header[:4] == ["family", "chance", "ceiling of uniform", "positions only"]
        assert len({row.count("|") for row in table.splitlines()}) == 1
    for table in tables[:2]:
        assert (
            f"| **mean, motion** | {sum(1 / len(LABELS[f]) for f in MOTION) / len(MOTION):.3f} | 0.500 |"
            in table
        )
        assert "0.805 ± 0.007" in table
        for what in (", still camera", ", moving camera", ", pan", ", zoom", ", shake"):
            assert f"| **mean, motion{what}** |" in table
    assert "mirror time" in tables[2]


def test_results_are_put_between_the_marks_of_a_page_again_and_again():
    once = into_page("# Title\n\nwords\n", "first")
    assert into_page(once, "second") == into_page("# Title\n\nwords\n", "second")
    after = once + "\nmore words\n"
    assert into_page(after, "second").endswith("more words\n") and "first" not in into_page(after, "second")


def test_the_figure_has_a_panel_a_subset_and_a_line_an_input():
    picture = draw(made_up(ALIKE), SETTINGS.budgets)
    alone = draw(
        Results({"label": ("a", "b")}, [], {"0.0625": {"label": dict.fromkeys(("all", "moving"))}}), [1 / 16]
    )
    assert len(picture.axes) == 2 and len(alone.axes) == 1
    labels = [line.get_label() for line in picture.axes[0].lines]
    assert labels[0] == "codec" and "uniform frames" in labels and "dense, every pixel" in labels
    assert list(picture.axes[0].lines[0].get_ydata()) == pytest.approx([0.805, 0.805])


@pytest.fixture
def tiny_profile(monkeypatch):
    monkeypatch.setitem(motion.PROFILES, "small", replace(ONE_TRIAL, inputs=("codec", "uniform")))


def test_the_command_writes_page_figure_and_json(tmp_path, tiny_profile, capsys):
    page_path, json_path = tmp_path / "docs" / "motion.md", tmp_path / "motion.json"
    page_path.parent.mkdir()
    page_path.write_text("# Mine\n")
    words = ["eval", "motion", "--model", "none", "--work", tmp_path / "work", "--out", page_path]
    assert main([*map(str, words), "--json", str(json_path), "--workers", "1"]) == 0
    document = json.loads(json_path.read_text())
    assert document["profile"] == "small" and len(document["trials"]) == 2
    assert page_path.read_text().startswith("# Mine\n") and "images/motion.png" in page_path.read_text()
    assert Image.open(tmp_path / "docs" / "images" / "motion.png").width > 400
    assert "wanted: 0.1" in capsys.readouterr().out or not document["goals"]


def test_options_replace_what_the_profile_says(tmp_path, monkeypatch):
    found_settings = []

    def watched(settings, work, **more):
        found_settings.append(settings)
        raise ValueError("seen")

    monkeypatch.setattr(motion, "run_suite", watched)
    words = "eval motion --model none --seeds 2 --steps 70 30 --inputs codec,uniform --profile full"
    assert main([*words.split(), "--budgets", "0.0625,0.25"]) == 1
    (found,) = found_settings
    assert (found.seeds, found.inputs) == ((0, 1), ("codec", "uniform"))
    assert (found.mixing.steps, found.training.steps) == (70, 30)
    full = motion.PROFILES["full"]
    assert found.budgets == (1 / 16, 1 / 4)
    assert (found.inputs, found.train, found.mixing.batch) == (
        ("codec", "uniform"),
        full.train,
        full.mixing.batch,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0", "--seeds must be at least 1, found 0"),
        ("--steps 0 5", "--steps must be at least 1, found 0"),
        ("--inputs codec,frames", "no input is called 'frames'; choose one of codec, "),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, words, message, capsys):
    work = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "x.md")]
    assert main(["eval", "motion", "--model", "none", *words.split(), *work]) == 1
    assert message in capsys.readouterr().err


def test_bad_options_end_with_one_line(tmp_path, tiny_profile, capsys):
    work = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "x.md")]
    assert main(["eval", "motion", "--model", "none", "--workers", "0", *work]) == 1
    assert "--workers must be at least 1, found 0" in capsys.readouterr().err
    assert main(["eval", "motion", "--model", str(tmp_path / "no-model"), *work]) == 1
    assert "no-model" in capsys.readouterr().err
    assert main(["eval", "motion", "--model", "none", "--clips", str(tmp_path / "no"), *work]) == 1
    assert "is no folder: --clips takes a folder" in capsys.readouterr().err
