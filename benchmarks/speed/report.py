"""What the contestants did, in numbers and as a table."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import about_line
from benchmarks.speed.contestants import (
    COMPILED,
    ONE_PROCESS,
    PIPELINE_ALONE,
    PIPELINE_BEST,
    RECIPE_ALONE,
    RECIPE_BEST,
)
from benchmarks.speed.subjects import Result
from spin.runtime.files import replacing_file

UNITS = {"training": "pairs", "drawing": "images", "processes": "pairs"}
_ON_A_GPU = {"training": {RECIPE_ALONE: 3.0, RECIPE_BEST: 1.35}, "drawing": {PIPELINE_ALONE: 2.5}}
TARGETS: dict[tuple[str, str], dict[str, dict[str, float]]] = {
    ("tiny", "cpu"): {
        "training": {RECIPE_ALONE: 3.5, RECIPE_BEST: 1.2},
        "drawing": {PIPELINE_ALONE: 3.5, PIPELINE_BEST: 1.0},
        "processes": {ONE_PROCESS: 1.9},
    },
    ("sd15", "cuda"): _ON_A_GPU,
    ("sdxl", "cuda"): _ON_A_GPU,
}
"""How many times as fast as a row of a part this project shall be."""


@dataclass
class Measured:
    """One contestant's turns."""

    rates: list[float]
    """Pairs or images per second, by round."""
    cpu_seconds: list[float]
    """Of one pair or image, by round: what other work on the machine hardly changes."""
    size: int
    """At a time."""
    processes: int
    peak_bytes: int
    items: int
    """Of all turns, in all processes."""
    asked: dict[Any, int]
    """Of the networks, in all turns of one process."""
    tflop: float = 0.0
    """Of one pair or image."""

    @classmethod
    def of(cls, turns: Sequence[Result], size: int, processes: int) -> "Measured":
        """From the results of the rounds."""
        asked: dict[Any, int] = {}
        for turn in turns:
            for ask, rows in turn.asked.items():
                asked[ask] = asked.get(ask, 0) + rows
        rates = [turn.items / turn.seconds for turn in turns]
        peak, items = max(turn.peak_bytes for turn in turns), sum(turn.items for turn in turns)
        spent = [turn.cpu_seconds / turn.items for turn in turns]
        return cls(rates, spent, size, processes, peak, items, asked)

    def count_flops(self, params: Path) -> None:
        """Find out what a pair or image costs, from what the networks were asked."""
        from spin.models.asked import tflop_of_asked
        from spin.models.bases import find_base
        from spin.params.schema import load_params

        chosen = load_params(params)
        base = find_base(chosen.base.model_dump())
        self.tflop = self.processes * tflop_of_asked(self.asked, base, chosen.training.lora) / self.items


def ratios(first: Measured, other: Measured) -> list[float]:
    """How many times as fast the first one is, round by round."""
    return [ours / theirs for ours, theirs in zip(first.rates, other.rates, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(part: dict[str, Measured], rate: int) -> list[dict[str, Any]]:
    """A part for JSON; `rate` is that of matrix products, FLOP/s, or 0."""
    first, rows = next(iter(part.values())), []
    for label, each in part.items():
        row: dict[str, Any] = {"who": label, "at_a_time": each.size, "processes": each.processes}
        row |= {"per_second": spread(each.rates), "rates": each.rates, "tflop_each": each.tflop}
        row |= {"cpu_seconds_each": spread(each.cpu_seconds), "peak_bytes": each.peak_bytes}
        if rate:
            done = statistics.median(each.rates) * each.tflop * 1e12
            row["mfu"] = done / rate / each.processes
        if each is not first:
            row["times_as_fast"] = spread(ratios(first, each))
        rows.append(row)
    return rows


def verdicts(given: argparse.Namespace, measured: dict[str, dict[str, Measured]]) -> list[str]:
    """A line for each target of this size and device: the medians reached, eager and compiled, and whether that is enough."""
    lines = []
    for part, wanted in TARGETS.get((given.size, given.device), {}).items():
        if part not in measured:
            continue
        rows = measured[part]
        name = next(iter(rows))
        for label, least in wanted.items():
            said = []
            for ours in (name, COMPILED):
                if ours in rows:
                    reached = statistics.median(ratios(rows[ours], rows[label]))
                    how = "compiled " if ours == COMPILED else ""
                    said.append(f"{how}{reached:.2f} ({'met' if reached >= least else 'missed'})")
            lines.append(
                f"- {part}, {name} over {label}: at least {least:g} wanted, reached {', '.join(said)}"
            )
    return lines


def fill_page(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put the tables between the marks of this name on a page, in place of those before."""
    begin, end = f"<!-- {name}: made by `python -m benchmarks.run` -->", f"<!-- end of {name} -->"
    text = page.read_text("utf-8")
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{page} must have the marks {begin} and {end}, found none; add them.")
    with replacing_file(page) as temporary:
        block = "\n".join(["", "", *lines[2:], "", ""])  # without the heading
        temporary.write_text(before + begin + block + end + rest.partition(end)[2], "utf-8")
    print(f"Wrote {name} into {page}")


def lines_of(
    given: argparse.Namespace, about: dict[str, Any], measured: dict[str, dict[str, Measured]]
) -> list[str]:
    """The tables for people."""
    rate = int(about.get("product_tflops", 0) * 1e12)
    lines = [f"# Speed: {given.size} on {given.device}", ""]
    changes = "".join(f", {key} = {value}" for key, value in given.set)
    lines += [
        f"`python -m benchmarks.run --size {given.size} --device {given.device}`{changes}; {given.rounds} rounds in turns. Ratios are",
        "those of the first row over each other row, median over the rounds, least and most in brackets.",
        "",
        about_line(about),
    ]
    if rate:
        lines.append(f"Matrix products, in the precision of training: {rate / 1e12:.3g} TFLOP/s.")
    for part, contestants in measured.items():
        unit = UNITS[part]
        lines += [
            "",
            f"| {part} | at a time | {unit}/s | least to most | times as fast | CPU ms each | GFLOP each | of products | peak, GiB |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [_row(row) for row in shown(contestants, rate)]
    said = verdicts(given, measured)
    return [*lines, "", "Targets, by the medians:", "", *said] if said else lines


def _row(row: dict[str, Any]) -> str:
    speed, ratio = row["per_second"], row.get("times_as_fast")
    cells = [
        row["who"],
        row["at_a_time"],
        f"{speed['median']:.3g}",
        f"{speed['min']:.3g} to {speed['max']:.3g}",
        "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
        f"{row['cpu_seconds_each']['median'] * 1e3:.3g}",
        f"{row['tflop_each'] * 1e3:.3g}",
        f"{row['mfu']:.0%}" if "mfu" in row else "",
        f"{row['peak_bytes'] / 2**30:.2f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"
