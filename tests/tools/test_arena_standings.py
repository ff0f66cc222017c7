"""Standings: worked by hand, the same seen from either side, and scorers beside people."""

from pathlib import Path

import pandas as pd
import pytest

from spin.errors import EvaluationError
from spin.tools.arena.standings import read_scores, standings, standings_table
from tests.tools.arena_samples import MODELS, PROMPTS


@pytest.fixture
def scores(samples: Path) -> Path:
    """Scores of the samples: `good` prefers iter1 everywhere, `flat` sees no difference."""
    for model in MODELS:
        frame = pd.read_parquet(samples / model / "manifest.parquet").drop(columns="image")
        frame = frame.assign(good=1.0 if model == "iter1" else 0.0, flat=0.5, flagged=False)
        (samples.parent / "scores" / model).mkdir(parents=True)
        frame.to_parquet(samples.parent / "scores" / model / "scores.parquet")
    return samples.parent / "scores"


def ballot(choices: list[str], left: str = "iter1") -> pd.DataFrame:
    right = {"iter1": "base", "base": "iter1"}[left]
    rows = [(f"test-{i % PROMPTS}", 0, left, right, choice, "") for i, choice in enumerate(choices)]
    return pd.DataFrame(rows, columns=["prompt_id", "image_index", "left", "right", "choice", "voted_at"])


def test_standings_by_hand() -> None:
    (row,) = standings(ballot(["left", "right", "tie", "left"]), MODELS)
    assert (row.win_rate, row.ties, row.votes, row.prompts) == (0.625, 1, 4, 4)
    assert row.low <= row.win_rate <= row.high


def test_swapping_all_sides_and_choices_changes_nothing() -> None:
    choices = ["left", "right", "tie", "left", "left", "right", "left"]
    other = {"left": "right", "right": "left", "tie": "tie"}
    assert standings(ballot(choices), MODELS) == standings(
        ballot([other[choice] for choice in choices], left="base"), MODELS
    )


def test_winning_rates_seen_from_both_models_add_to_one() -> None:
    votes = ballot(["left", "right", "tie", "left"])
    (ours,), (theirs,) = standings(votes, MODELS), standings(votes, MODELS[::-1])
    assert ours.win_rate + theirs.win_rate == pytest.approx(1)


def test_many_votes_on_one_prompt_weigh_as_one_prompt() -> None:
    votes = pd.concat([ballot(["left"] * 1), ballot(["right"] * 2).iloc[1:], ballot(["left"])])
    (row,) = standings(votes, MODELS)  # prompt 0 won twice, prompt 1 lost once
    assert (row.win_rate, row.votes, row.prompts) == (0.5, 3, 2)


def test_scorers_stand_beside_people_on_the_same_images(scores: Path) -> None:
    rows = standings(ballot(["left", "left", "right"]), MODELS, read_scores(scores, MODELS))
    by_judge = {row.judge: row for row in rows}
    assert set(by_judge) == {"people", "good", "flat"}
    assert by_judge["good"].win_rate == 1.0
    assert by_judge["good"].agreement == pytest.approx(2 / 3)
    assert (by_judge["flat"].win_rate, by_judge["flat"].ties, by_judge["flat"].agreement) == (0.5, 3, 0.5)
    text = standings_table(rows, ballot(["left", "left", "right"]))
    assert "SPIN iter 1 over Base" in text
    assert "Of 3 decided votes 67% were for the image on the left" in text


def test_scores_of_other_images_are_refused(scores: Path) -> None:
    path = scores / "base" / "scores.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(EvaluationError, match="lacks some of base; score it again"):
        standings(ballot(["left"]), MODELS, read_scores(scores, MODELS))
    path.unlink()
    with pytest.raises(EvaluationError, match="needs the scores of base"):
        read_scores(scores, MODELS)
