"""The report as one picture: a line a benchmark, this model as a disc, the published models as marks."""

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .report import Report

WIDTH, LEFT, RIGHT, LINE, HEAD = 1200, 270, 90, 44, 132
INK, FAINT, RULE, OURS = "#1b1f27", "#6b7280", "#e3e6eb", "#d1495b"
# Okabe and Ito's colours, apart from ours; a mark's form tells the group.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#7a5195", "#8c6d31", "#4d4d4d", "#94a3b8")


def draw_report(report: "Report") -> Image.Image:
    """All tables of the report, one below the other."""
    panels = [_panel(report, number) for number in range(len(report.tables))]
    image = Image.new("RGB", (WIDTH, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        image.paste(panel, (0, top))
        top += panel.height
    return image


def _panel(report: "Report", number: int) -> Image.Image:
    table = report.tables[number]
    rows = report.rows_of(table)
    image = Image.new("RGB", (WIDTH, HEAD + LINE * len(rows) + 56), "white")
    pen = ImageDraw.Draw(image)
    pen.text((24, 18), table.title, INK, _font(22))
    groups = list(dict.fromkeys(column.group for column in table.columns))
    _legend(pen, [(column.name, groups.index(column.group)) for column in table.columns], groups)

    bottom = HEAD + LINE * len(rows)
    for tick in range(0, 101, 20):
        pen.line((_x(tick), HEAD - 6, _x(tick), bottom), RULE)
        pen.text((_x(tick), bottom + 14), str(tick), FAINT, _font(15), anchor="mm")
    pen.text((WIDTH - RIGHT, bottom + 36), "0 to 100, higher is better", FAINT, _font(14), anchor="rm")
    for line, row in enumerate(rows):
        y = HEAD + LINE * line + LINE // 2
        pen.line((_x(0), y, _x(100), y), RULE)
        pen.text((LEFT - 18, y), row.name, INK, _font(17), anchor="rm")
        for column, value in enumerate(report.published_of(table, row)):
            _mark(pen, _x(value), y, COLOURS[column], groups.index(table.columns[column].group))
        if row.figure is None:
            pen.text((WIDTH - 24, y), "not run", FAINT, _font(15), anchor="rm")
            continue
        x = _x(row.figure)
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), OURS, "white", 2)
        pen.text((WIDTH - 24, y), f"{row.figure:.1f}", OURS, _font(19), anchor="rm")
    return image


def _legend(pen: ImageDraw.ImageDraw, columns: list[tuple[str, int]], groups: list[str]) -> None:
    """This model, then the columns of each group on a line of their own."""
    for line, group in enumerate(groups):
        x, y = 24.0, 66 + 26 * line
        if not line:
            pen.ellipse((x, y - 8, x + 16, y + 8), OURS)
            pen.text((x + 24, y), "this model", INK, _font(16), anchor="lm")
        x += 150
        pen.text((x, y), f"{group}:", FAINT, _font(16), anchor="lm")
        x += 190
        for index, (name, of_group) in enumerate(columns):
            if of_group != line:
                continue
            _mark(pen, x + 6, y, COLOURS[index], line)
            pen.text((x + 22, y), name, INK, _font(16), anchor="lm")
            x += 40 + _font(16).getlength(name)


def _mark(pen: ImageDraw.ImageDraw, x: float, y: float, colour: str, form: int) -> None:
    if form == 0:
        pen.rectangle((x - 2, y - 11, x + 2, y + 11), colour)
    else:
        pen.polygon([(x, y - 8), (x + 7, y), (x, y + 8), (x - 7, y)], colour, "white")


def _x(value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(value, 0), 100) / 100


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
