"""What the contestants did, in numbers and as a table."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import about_line
from benchmarks.speed.subjects import Result

UNITS = {"training": "pairs", "drawing": "images", "processes": "pairs"}


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
    return lines


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
