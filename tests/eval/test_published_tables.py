"""The published tables are whole, and say where they come from.

Run: python -m pytest tests/eval/test_published_tables.py
"""

import pytest

from onevision_hf.eval.published import published_names, published_probes, published_table


@pytest.mark.parametrize("name", published_names())
def test_a_table_has_its_source_and_a_figure_for_every_column(name):
    table = published_table(name)
    assert table.source and table.title and table.metric
    for row in table.rows:
        assert list(row.values) == table.columns, row.model
        assert all(0 < value <= 2000 for value in row.values.values())


@pytest.mark.parametrize(
    "name", ["attentive_probe", "attentive_probe_interventions", "attentive_probe_older"]
)
def test_printed_averages_are_those_of_the_row(name):
    """Within what rounding leaves: a slip of the pen would show."""
    for row in published_table(name).rows:
        own = [value for column, value in row.values.items() if column != "average"]
        assert sum(own) / len(own) == pytest.approx(row.values["average"], abs=0.25), (row.model, row.patches)


def test_the_rows_beside_a_run_are_those_of_its_data_set_and_budget():
    rows = {model: percent for model, _, percent in published_probes("diving48", 4096)}
    assert rows["OV-Encoder (Codec) L/14 224"] == 69.4 and rows["DINOv3 L/14 224"] == 61.3
    assert len(rows) == 7
    assert [row[2] for row in published_probes("ssv2", 512)] == [42.8, 50.0]
    assert published_probes("ssv2", 4096, "shuffle")[0][2] == 41.8
    assert published_probes("ssv2", 100) == []


def test_scores_of_the_successor_come_with_their_conditions():
    frames, codec = (published_table(f"ov2_{name}") for name in ("frames", "codec"))
    for table in (frames, codec):
        assert list(table.more["conditions"]) == table.columns == list(table.more["labels"])
    assert frames.by_label()["MLVU-dev"] == [76.62] and frames.more["labels"]["mlvu_dev"] == "MLVU-dev"
    assert frames.more["conditions"]["mlvu_dev"] == {
        "task": "mlvu_dev", "frames": 512, "pixels": 72900, "subtitles": False,
    }  # fmt: skip
    both = set(frames.columns) & set(codec.columns)
    better = {name for name in both if codec.rows[0].values[name] > frames.rows[0].values[name]}
    assert len(both) == 4 and better == {"videomme_v2_subtitles"}


def test_sixteen_benchmarks_and_a_table_that_does_not_exist():
    table = published_table("lmm_probe")
    assert len(table.columns) == 16 and len(table.more["videos"]) == 7
    videos = {r.model: sum(r.values[v] for v in table.more["videos"]) / 7 for r in table.rows}
    assert videos["OV-Encoder (Codec)"] == pytest.approx(51.51, abs=0.01)
    with pytest.raises(ValueError, match="no published table 'none': choose one of attentive_probe"):
        published_table("none")
