"""Tables, console and findings mark what won, and claim nothing that the numbers do not show."""

import json
import re
from pathlib import Path

import pandas as pd

from spin.evaluation.findings import findings
from spin.evaluation.labels import model_colours, model_label
from spin.evaluation.table import Table, escape
from spin.evaluation.tables import read_tables, write_tables
from spin.evaluation.terminal import console_table
from tests.evaluation.fake_scores import score_frame, write_scores
from tests.evaluation.toy_params import params


def test_a_reference_is_shown_last_but_never_ranked(scores: Path, tmp_path: Path) -> None:
    write_scores(scores / "clean", score_frame("clean", 24).assign(hps=9.0, aesthetic=7.0))
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    lines = (tmp_path / "tables" / "mean.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[-1].startswith("| Clean (ceiling) |")
    assert "**" not in rows[-1]
    assert "<u>" not in rows[-1]
    summary = json.loads((tmp_path / "tables" / "summary.json").read_text())
    assert ["iter3", "aesthetic"] in summary["above_ceiling"]
    assert "\N{UPWARDS ARROW}" in next(row for row in rows if row.startswith("| SPIN iter 3"))
    assert "clean" not in summary["mean"]
    assert set(summary["ceiling"]) == {"clean"}


def small_table() -> Table:
    rows = [("base", 1.0), ("sft", 3.0), ("iter1", 3.0), ("iter2", 2.0), ("clean", 9.0)]
    frame = pd.DataFrame([(m, "hps", v, v - 0.2, v + 0.2) for m, v in rows])
    frame.columns = pd.Index(["model", "scorer", "value", "low", "high"])
    return Table("mean", "Mean & more", frame, ["clean"], [("iter2", "hps")], ["Note: 95%."])


def test_equals_share_the_best_rank_and_leave_no_second() -> None:
    ranks = {model: cell.rank for (model, _), cell in small_table().cells.items()}
    assert ranks == {"base": "", "sft": "best", "iter1": "best", "iter2": "", "clean": ""}


def test_markdown_and_latex_mark_and_escape() -> None:
    markdown, latex = small_table().to_markdown(), small_table().to_latex()
    assert "| SFT | **3.00** [2.80, 3.20] |" in markdown
    assert "2.00\N{UPWARDS ARROW} [1.80, 2.20]" in markdown
    assert r"\caption{Mean \& more}" in latex
    assert r"SFT & \textbf{3.00} {\scriptsize [2.80, 3.20]} \\" in latex
    assert r"2.00$\uparrow$" in latex
    assert "Note: 95\\%.\\\\" in latex
    assert escape("a_b\\") == r"a\_b\textbackslash "


def test_console_table_fits_a_wide_terminal_and_names_the_champion(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables" / "test", ["clean"])
    text = console_table(tmp_path / "tables" / "test")
    for title in (
        "Winning rate over Base (%)",
        "Head to head",
        "Share of the gap from Base to Clean closed (%)",
    ):
        assert title in text
    assert re.search(r"SPIN iter \d is [a-z ]+ best iteration.+: on 24 test prompts it wins \d+\.\d%", text)
    assert max(len(line) for line in text.splitlines() if line.startswith("  ")) <= 110


def test_the_summary_says_so_when_another_model_is_better_or_nothing_is_shown(
    scores: Path, tmp_path: Path
) -> None:
    for model in ("iter1", "iter2", "iter3"):
        write_scores(scores / model, score_frame("base", 24))
    write_tables(params(), scores, tmp_path / "test", ["clean"])
    measures, summary = read_tables(tmp_path / "test")
    text = " ".join(findings(measures, summary, summary))
    assert "SPIN iter 1 is taken for the best iteration as the earliest of those that nobody beats" in text
    assert "These prompts cannot tell it from SPIN iter 2 and SPIN iter 3." in text
    assert "is the best iteration" not in text
    assert "do not show a difference from the base" in text
    assert "It is not the best model of the run: SFT and Diffusion-DPO beat it" in text
    assert "It wins 50.0% over the base" not in text
    assert re.search(r"\d% over Diffusion-DPO \(", text)
    assert "It closes 0% of the gap from the base to Clean" in text


def test_the_summary_says_so_when_the_champion_is_worse_than_the_base(scores: Path, tmp_path: Path) -> None:
    for model in ("iter1", "iter2", "iter3"):
        frame = score_frame("base", 24)
        for scorer in ("pickscore", "hps", "image_reward", "aesthetic"):
            frame[scorer] -= frame[scorer].std()
        write_scores(scores / model, frame)
    write_tables(params(), scores, tmp_path / "test")
    measures, summary = read_tables(tmp_path / "test")
    text = " ".join(findings(measures, summary, summary))
    assert "below one half: it is worse than the base" in text
    assert "is significantly below the base's on PickScore" in text


def test_the_mean_is_told_where_it_says_otherwise_than_the_meetings(scores: Path, tmp_path: Path) -> None:
    """One prompt that another wins by far raises its mean and no winning rate."""
    frame = score_frame("iter3", 24)
    for scorer in ("pickscore", "hps", "image_reward", "aesthetic"):
        frame[scorer] = score_frame("iter2", 24)[scorer] - 0.1 * frame[scorer].std()
        frame.loc[0, scorer] += 50 * frame[scorer].std()
    write_scores(scores / "iter3", frame)
    write_tables(params(), scores, tmp_path / "test")
    measures, summary = read_tables(tmp_path / "test")
    text = " ".join(findings(measures, summary, summary))
    assert summary["champion"] == "iter2"
    assert "SPIN iter 3 has the highest mean of the average score" in text


def test_models_keep_their_own_colours() -> None:
    colours = model_colours(["base", "sft", "dpo", "sft_long", "iter1", "iter2", "clean"], ["iter1", "iter2"])
    assert len(set(colours.values())) == 7
    assert colours["base"] == model_colours(["iter1", "base"], ["iter1"])["base"]
    assert model_label("iter12") == "SPIN iter 12"
