"""Model cards: what a folder holds, where it comes from, what is known of its licence, its figures.

A card is Markdown with YAML in front, as the Hub reads it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

FIGURES_HEADING = "## Figures"
CARDS = Path(__file__).parent / "cards"


def conversion_card(kind: str, source: str, details: Mapping[str, Any], source_card: Path | None) -> str:
    """The card of a converted folder.

    Args:
        kind: of the published checkpoint; cards/origins.json has what is known of each: title, home of the
            code, arXiv identifier, the licence that the publisher states for the weights or null, all that is
            known of it in sentences, lines of Python that use the model.
        source: folder or Hub id that was converted.
        details: lines of the card's table.
        source_card: the source's card, whose licence holds where it states one; else that of its kind.
    """
    origin = json.loads((CARDS / "origins.json").read_text(encoding="utf-8"))[kind]
    stated = ModelCard.load(source_card).data.license if source_card else None
    licence = stated or origin["licence"]
    note = f"The source's card states {stated}. " if stated else ""
    on_hub = not Path(source).exists()
    data = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated-by-the-publisher",
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        base_model=source if on_hub else None,
        tags=["onevision-hf", "custom_code"],
    )
    return from_template(
        CARDS / "converted.md",
        data,
        origin=origin,
        source=f"[{source}](https://huggingface.co/{source})" if on_hub else "a local folder",
        stated=note,
        rows=_rows(details),
    )


def trained_card(config: Mapping[str, Any]) -> str:
    """The card of a folder that has none: what its configuration says, and no claim beyond it."""
    data = ModelCardData(
        license="other",
        license_name="not-stated",
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["onevision-hf", "custom_code"],
    )
    keys = (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    title = (config.get("architectures") or ["A model"])[0]
    rows = _rows({key: config[key] for key in keys if key in config})
    return from_template(CARDS / "trained.md", data, title=title, rows=rows)


def from_template(path: Path, data: ModelCardData, **values: Any) -> str:
    """A card's text.

    Args:
        path: of a Jinja template in Markdown.
        data: of its YAML.
        values: what the template names.
    """
    return str(ModelCard.from_template(data, template_path=str(path), **values))


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())


def with_figures(card: str, figures: Mapping[str, Any]) -> str:
    """`card` with a section of measured figures, in place of one that it had. Nested names are joined with
    " / ".
    """
    body, _, rest = card.partition(f"\n{FIGURES_HEADING}\n")
    # What follows the old section starts at the next heading.
    after = rest.partition("\n## ")
    tail = f"\n## {after[2]}" if after[1] else ""
    rows = _rows(dict(flat_figures(figures)))
    return f"{body.rstrip()}\n\n{FIGURES_HEADING}\n\n| what | value |\n|---|---|\n{rows}\n{tail}"


def flat_figures(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of every leaf. Raises ValueError for a leaf that is neither a number nor a text."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat_figures(value, f"{prefix}{name} / ")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{name}", value
        else:
            raise ValueError(
                f"the figure {prefix}{name} is a {type(value).__name__}, expected a number or a text"
            )
