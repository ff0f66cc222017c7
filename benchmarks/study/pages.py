"""The study's record for people: tables in Markdown, and the comparisons as a picture."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.record import about_line
from benchmarks.study.plan import COMPARISONS
from spin.evaluation.labels import model_label

TITLES = {
    "embedded": "The shipped base (content solved)",
    "embedded-early": "The early base (content not solved)",
}
COLOURS = {"holds": "#1b7837", "the opposite": "#b2182b", "open": "#555555"}
LABELS = {
    "sft_total": "SFT, all updates",
    "dpo_total": "Diffusion-DPO, all updates",
    "iter1_guided": "SPIN iter 1 (guided opponents)",
    "iter2_guided": "SPIN iter 2 (guided opponents)",
    "iter3_guided": "SPIN iter 3 (guided opponents)",
}


def label(model: str) -> str:
    """Name a model of the study."""
    return LABELS.get(model) or model_label(model)


def title(base: str) -> str:
    """Name a base."""
    return TITLES.get(base, base)


def comparison_rows(base: dict[str, Any]) -> list[str]:
    """Markdown of the planned comparisons of one base."""
    rows = [
        "| Comparison | Prompts won, % | over prompts | over seeds | | PSNR, dB | over prompts | over seeds | |",
        "|---|---:|---|---|---|---:|---|---|---|",
    ]
    for row in base["comparisons"] + base["described"]:
        won, gained = row["win_rate"], row["psnr"]
        rows.append(
            f"| {label(row['model'])} over {label(row['over'])} "
            f"| {100 * won['mean']:.1f} | {_span(won['over_prompts'], 100, 1)} | {_span(won['over_seeds'], 100, 1)} | {_verdict(base, row, 'win_rate')} "
            f"| {gained['mean']:+.2f} | {_span(gained['over_prompts'], 1, 2)} | {_span(gained['over_seeds'], 1, 2)} | {_verdict(base, row, 'psnr')} |"
        )
    return rows


def _verdict(base: dict[str, Any], row: dict[str, Any], key: str) -> str:
    return str(row[key]["verdict"]) if row in base["comparisons"] else f"({len(row[key]['by_seed'])} seeds)"


def _span(bounds: list[float], scale: int, digits: int) -> str:
    return " to ".join(f"{scale * bound:.{digits}f}" for bound in bounds)


def model_rows(base: dict[str, Any]) -> list[str]:
    """Markdown of every model's means over seeds and prompts, and of the gap it closes."""
    rows = [
        "| Model | PSNR, dB | Facts right | CLIP | Wins over the base, % | PSNR gap closed, % | Scores' gap closed, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for model, means in base["means"].items():
        cells = [f"{means['oracle_psnr']:.2f}", f"{means['oracle_attributes']:.3f}", f"{means['clip']:.3f}"]
        if model in base["gap_closed"]:
            shares = base["gap_closed"][model]
            scores = [each["share"] for name, each in shares.items() if name != "oracle_psnr"]
            cells.append(f"{100 * base['over_base'][model]['win_rate']['mean']:.1f}")
            cells += [f"{100 * shares['oracle_psnr']['share']:.0f}", f"{100 * sum(scores) / len(scores):.0f}"]
        name = f"{label(model)}, {len(base['seeds'][model])} seeds"
        rows.append(f"| {name} | {' | '.join(cells + [''] * (6 - len(cells)))} |")
    return rows


def tuning_rows(tuning: dict[str, Any]) -> list[str]:
    """Markdown of the trials: the mean PSNR on validation captions of each, and the one taken."""
    rows = ["| Method | PSNR of its trials, dB | Taken |", "|---|---|---|"]
    for method, found in tuning.items():
        if isinstance(found, dict):
            taken = found["trials"][found["taken"]]
            stages = taken.values() if method == "spin" else [taken]
            settings = "; ".join(
                f"rate {stage['learning_rate']:g}" + (f", beta {stage['beta']:g}" if "beta" in stage else "")
                for stage in stages
            )
            name = "SPIN, its last iteration" if method == "spin" else label(method)
            rows.append(f"| {name} | {', '.join(f'{psnr:.2f}' for psnr in found['psnr'])} | {settings} |")
    return rows


def lines(result: dict[str, Any]) -> list[str]:
    """The whole record."""
    seeds = " ".join(map(str, result["seeds"]))
    text = [
        "# The study of the embedded world",
        "",
        f"    python -m benchmarks.study --bases {' '.join(result['bases'])} --seeds {seeds} --work FOLDER --out benchmarks/results/toy-study",
        "",
        about_line(result["about"]),
        "Played by: " + "; ".join(f"{base} by {code}" for base, code in result["played_by"].items()) + ".",
        "",
        "What it asks and what counts as an answer was fixed before it ran: [`benchmarks/study/plan.py`](../study/plan.py).",
        'Intervals are 95%; "holds" and "the opposite" need both, over prompts and over seeds.',
        "",
    ]
    for base, found in result["bases"].items():
        text += [f"## {title(base)}", ""]
        text += [
            f"{found['prompts']} test captions in {found['clusters']} clusters, {len(result['seeds'])} seeds.",
            "",
        ]
        text += [
            *comparison_rows(found),
            "",
            "Means over seeds and captions; the ceiling is the clean pictures.",
            "",
        ]
        text += [*model_rows(found), "", "Tuning, on validation captions and another seed:", ""]
        text += [*tuning_rows(result["tuning"][base]), ""]
    return text


def draw_comparisons(result: dict[str, Any]) -> Figure:
    """A row for each planned comparison, a column for each outcome, a dot a seed and the interval over prompts, by base."""
    bases = list(result["bases"])
    figure = Figure(figsize=(12, 0.42 * len(COMPARISONS) * len(bases) + 1.6), layout="constrained")
    panels = figure.subplots(len(bases), 2, squeeze=False)
    for line, base in zip(panels, bases, strict=True):
        rows = result["bases"][base]["comparisons"]
        _draw(line[0], rows, "win_rate", 100, 50, title(base), "prompts won, %")
        _draw(line[1], rows, "psnr", 1, 0, "", "PSNR gained, dB")
        line[1].set_yticklabels([])
    return figure


def _draw(
    axes: Axes, rows: list[dict[str, Any]], key: str, scale: int, level: float, heading: str, unit: str
) -> None:
    for place, row in enumerate(rows):
        found = row[key]
        colour = COLOURS[found["verdict"]]
        low, high = (scale * bound for bound in found["over_prompts"])
        axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([scale * each for each in found["over_seeds"]], [place, place], color=colour, linewidth=1.2)
        axes.scatter(
            [scale * each for each in found["by_seed"]],
            [place] * len(found["by_seed"]),
            s=14,
            color=colour,
            zorder=3,
        )
    axes.axvline(level, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [f"{label(row['model'])} over {label(row['over'])}" for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set(title=heading, xlabel=unit)
