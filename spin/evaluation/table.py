"""One table, models by scorers with intervals, as CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pandas as pd

from spin.evaluation.labels import model_label, scorer_label

Rank = Literal["best", "second", ""]


class Cell(NamedTuple):
    """One number, ready to be shown."""

    value: float
    low: float
    high: float
    rank: Rank
    above_ceiling: bool

    def text(self, decimals: int) -> tuple[str, str]:
        """Return the number and its interval as text; empty where there is none."""
        if math.isnan(self.value):
            return "", ""
        arrow = "\N{UPWARDS ARROW}" if self.above_ceiling else ""
        interval = f"[{self.low:.{decimals}f}, {self.high:.{decimals}f}]" if math.isfinite(self.low) else ""
        return f"{self.value:.{decimals}f}{arrow}", interval


@dataclass(frozen=True)
class Table:
    """Models in rows, scorers in columns; references last, marked as ceilings and not ranked."""

    name: str
    title: str
    frame: pd.DataFrame
    """model, scorer, value, low, high; as shown, so winning rates are in percent."""
    references: Sequence[str]
    above_ceiling: Sequence[tuple[str, str]]
    """(model, scorer) that are above the ceiling."""
    notes: Sequence[str]
    """Lines printed under the table."""
    ranked: bool = True
    """Whether higher is better, so that best and second are marked."""
    bold: Sequence[tuple[str, str]] = ()
    """(model, scorer) to mark where columns are not ranked."""

    @property
    def scorers(self) -> list[str]:
        """Columns, in order."""
        return list(dict.fromkeys(self.frame["scorer"]))

    @property
    def models(self) -> list[str]:
        """Rows, in order."""
        return list(dict.fromkeys(self.frame["model"]))

    def row_label(self, model: str) -> str:
        """Name of a row."""
        return model_label(model) + (" (ceiling)" if model in self.references else "")

    @cached_property
    def decimals(self) -> dict[str, int]:
        """By scorer, the digits that show two of the column's typical half interval: 1 to 4."""
        return {scorer: self._decimals(scorer) for scorer in self.scorers}

    def _decimals(self, scorer: str) -> int:
        column = self.frame[self.frame["scorer"] == scorer]
        widths = column["high"] - column["low"]
        half = float(widths[widths > 0].median()) / 2  # a median of few levels may have no width
        return min(4, max(1, 1 - math.floor(math.log10(half)))) if half > 0 else 3

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        """Every cell by (model, scorer). Equals share a rank; after two bests there is no second."""
        ranks = {scorer: self._ranks(scorer) for scorer in self.scorers}
        return {
            (row.model, row.scorer): Cell(
                row.value,
                row.low,
                row.high,
                ranks[row.scorer].get(row.model, ""),
                (row.model, row.scorer) in self.above_ceiling,
            )
            for row in rows_of(self.frame)
        }

    def _ranks(self, scorer: str) -> dict[str, Rank]:
        if not self.ranked:
            return {model: "best" for model, marked in self.bold if marked == scorer}
        rows = self.frame[(self.frame["scorer"] == scorer) & ~self.frame["model"].isin(self.references)]
        places = rows["value"].rank(ascending=False, method="min")
        names: dict[float, Rank] = {1.0: "best", 2.0: "second"}
        return {model: names.get(place, "") for model, place in zip(rows["model"], places, strict=True)}

    def to_csv(self) -> str:
        """Numbers at full precision: model, then each scorer with its _low and _high."""
        cells, stream = self.cells, io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["model", *(f"{s}{end}" for s in self.scorers for end in ("", "_low", "_high"))])
        for model in self.models:
            numbers = [
                "" if math.isnan(n) else repr(float(n)) for s in self.scorers for n in cells[model, s][:3]
            ]
            writer.writerow([model, *numbers])
        return stream.getvalue()

    def to_markdown(self) -> str:
        """GitHub's Markdown: best bold, second underlined, notes below."""
        cells = self.cells
        lines = [f"**{self.title}**", "", "| Model | " + " | ".join(map(scorer_label, self.scorers)) + " |"]
        lines.append("|---|" + "---:|" * len(self.scorers))
        marks = {"best": ("**", "**"), "second": ("<u>", "</u>"), "": ("", "")}
        for model in self.models:
            shown = []
            for scorer in self.scorers:
                number, interval = cells[model, scorer].text(self.decimals[scorer])
                before, after = marks[cells[model, scorer].rank]
                shown.append(f"{before}{number}{after} {interval}".rstrip())
            lines.append(f"| {self.row_label(model)} | " + " | ".join(shown) + " |")
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"

    def to_latex(self) -> str:
        """A `table` for booktabs: best bold, second underlined, notes below."""
        cells = self.cells
        marks = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(self.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(self.scorers)}}}", r"\toprule"]
        lines += [
            " & ".join(["Model", *(escape(scorer_label(s)) for s in self.scorers)]) + r" \\",
            r"\midrule",
        ]
        for model in self.models:
            shown = [escape(self.row_label(model))]
            for scorer in self.scorers:
                number, interval = cells[model, scorer].text(self.decimals[scorer])
                small = f" {{\\scriptsize {interval}}}" if interval else ""
                shown.append(f"{marks[cells[model, scorer].rank] % escape(number)}{small}")
            lines.append(" & ".join(shown) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip\footnotesize"]
        lines += [f"{escape(note)}\\\\" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows as named tuples; what a column holds is known to the reader and not to the type checker."""
    return iter(frame.itertuples(index=False))


def escape(text: str) -> str:
    """Make plain text safe for LaTeX."""
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return text.replace("\N{UPWARDS ARROW}", r"$\uparrow$").replace("\N{EN DASH}", "--")
