"""What a terminal shows at the end of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spin.evaluation.diversity import diversity_line
from spin.evaluation.findings import champion_line
from spin.evaluation.labels import AVERAGE, scorer_label
from spin.evaluation.notes import few_line, protocol_line
from spin.evaluation.table import Table
from spin.evaluation.tables import build_tables, read_chosen, read_tables


def console_table(tables: Path) -> str:
    """Lay out the folder written by `write_tables` as plain text: winning rates, means, and the champion.

    A star marks the best of a column, and head to head the better of two. The interval is shown for the average only, to
    keep lines short, and for diversity, where a star marks a fall.
    """
    measures, summary = read_tables(tables)
    shown = {table.name: table for table in build_tables(measures, summary)}
    rates = [table for name, table in shown.items() if name.startswith("winrate")]
    blocks = [_block(table, summary) for table in rates]
    blocks.append(_matrix(shown["head_to_head"]))
    blocks += [_block(shown[name], summary) for name in ("gap_closed", "mean") if name in shown]
    blocks += [_diversity(shown[name]) for name in ("diversity",) if name in shown]
    chosen = read_chosen(tables)
    lines = [protocol_line(summary), few_line(summary), champion_line(chosen)]
    lines += diversity_line(summary, chosen["champion"])
    return "\n\n".join([*blocks, *filter(None, lines)])


def _block(table: Table, summary: dict[str, Any]) -> str:
    cells, average_of = table.cells, summary["statistics"]["average_of"]
    others = [scorer for scorer in table.scorers if scorer not in (*average_of, AVERAGE)]
    columns = [*average_of, AVERAGE, *others]  # the average beside what it averages
    lines = [["", *(_short(scorer) for scorer in columns)]]
    for model in table.models:
        shown = [table.row_label(model)]
        for scorer in columns:
            number, interval = cells[model, scorer].text(min(3, table.decimals[scorer]))
            star = "*" if cells[model, scorer].rank == "best" else " "
            shown.append(f"{number}{star}" + (f" {interval}" if scorer == AVERAGE else ""))
        lines.append(shown)
    return "\n".join([table.title, *_aligned(lines)])


def _diversity(table: Table) -> str:
    """Both columns with their intervals."""
    lines = [["", *table.scorers]]
    for model in table.models:
        cells = [table.cells[model, column] for column in table.scorers]
        texts = [cell.text(table.decimals[column]) for cell, column in zip(cells, table.scorers, strict=True)]
        marks = ["*" if cell.rank == "best" else "" for cell in cells]
        shown = [
            f"{number}{mark} {interval}".strip()
            for (number, interval), mark in zip(texts, marks, strict=True)
        ]
        lines.append([table.row_label(model), *shown])
    return "\n".join([f"{table.title} (*: below Base with its whole interval)", *_aligned(lines)])


def _matrix(table: Table) -> str:
    """A square of models, rates only."""
    lines = [["", *(f"{name} " for name in table.scorers)]]
    for model in table.models:
        cells = [table.cells[model, over] for over in table.scorers]
        shown = [cell.text(1)[0] + ("*" if cell.rank == "best" else " ") for cell in cells]
        lines.append([table.row_label(model), *shown])
    return "\n".join([table.title, *_aligned(lines)])


def _short(scorer: str) -> str:
    return scorer_label(scorer).replace("Oracle attributes", "Attributes").replace("Oracle ", "") + " "


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad the columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + " ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
