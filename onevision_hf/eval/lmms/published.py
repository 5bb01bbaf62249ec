"""The published tables of the suite: which columns stand beside ours, and what contradicts what in them.

table = suite_table("lmm_probe")
table.columns[0].name, table.rows["VideoMME"], table.notes
"""

from dataclasses import dataclass

from ..published import published_table


@dataclass(frozen=True)
class Column:
    """One published model; `group` is what it shares with its neighbours."""

    name: str
    group: str


@dataclass(frozen=True)
class SuiteTable:
    """A table by benchmark: `rows` has a value a column, on the paper's own scale."""

    title: str
    source: str
    columns: tuple[Column, ...]
    rows: dict[str, list[float]]
    notes: tuple[str, ...]


CAPTIONS, NO_CAPTIONS = "caption supervised", "no caption supervision"
COLUMNS = {
    "lmm_probe": (
        Column("OV-Encoder-Lang (codec)", CAPTIONS),
        Column("Qwen3-ViT (frames)", CAPTIONS),
        Column("OV-Encoder (codec)", NO_CAPTIONS),
        Column("OV-Encoder (frames)", NO_CAPTIONS),
        Column("SigLIP2 (frames)", NO_CAPTIONS),
    ),
    "openvision3_understanding": tuple(
        Column(name, group)
        for group in ("LLaVA-1.5", "LLaVA-NeXT")
        for name in ("CLIP B/16", "OpenVision 3 B/2", "CLIP L/14", "OpenVision 3 L/2")
    ),
}
NOTES = {
    "lmm_probe": (
        "The headline of +4.1 % over Qwen3-ViT is the mean of the seven video rows, and of the "
        "caption-supervised encoder: 52.1 against 48.0. The encoder without captions has 51.5.",
        '"Consistently outperforms" does not hold row by row. With codec input MLVU-dev is below SigLIP2 '
        "and below the same encoder on frames; TOMATO is level; AI2D, MMBench-EN, OCRBench, MMStar and "
        "RealWorldQA are below SigLIP2. DocVQA and OCRBench of the caption-supervised encoder are below "
        "Qwen3-ViT.",
        "The multimodal checkpoints behind these rows are not published, so nobody can run them again; they "
        "were measured with a fork of lmms-eval 0.5.0.",
        "The paper's stage ablation (Table 3) prints other SigLIP2 values for the image rows (OCRBench 590, "
        "not 621): it is another training.",
    ),
    "openvision3_understanding": (
        "Its second version prints SeedBench 63.1 after LLaVA-1.5 and 63.3 after LLaVA-NeXT; the first "
        "printed 62.4.",
        "It does not say which SeedBench key of lmms-eval it prints, nor whether POPE is accuracy or F1.",
    ),
}


def suite_table(name: str) -> SuiteTable:
    """The table `published/NAME.json`, by benchmark.

    Raises:
        ValueError: there is none, or its models are not the ones that the columns name.
    """
    table = published_table(name)
    if len(COLUMNS[name]) != len(table.rows):
        raise ValueError(f"{name} has {len(table.rows)} models, the suite names {len(COLUMNS[name])}")
    labels = table.more["labels"]
    rows = {labels[column]: [row.values[column] for row in table.rows] for column in table.columns}
    return SuiteTable(table.title, f"{table.source}. {table.note}", COLUMNS[name], rows, NOTES[name])
