"""Going on against moving on: what is shown is paired, at the start nothing differs, and the sentence follows."""

import numpy as np
import pandas as pd
import pytest

from spin.errors import EvaluationError
from spin.evaluation.continual import curve_line, curve_of, curve_table, draw_curve
from tests.evaluation.toy_params import params

TABLES = params().tables.model_copy(update={"average_of": ["hps"], "bootstrap_samples": 500})
PROMPTS = 40


def scores(stay: float, switch: float) -> pd.DataFrame:
    """Prompts that differ by 10; after 16 updates the paths have gained so much, after 32 twice as much."""
    rng = np.random.default_rng(0)
    prompts, frames = rng.normal(0, 10, PROMPTS), []
    for path, step, gain in [("start", 0, 0.0)] + [
        (path, step, gain * step / 16)
        for path, gain in (("stay", stay), ("switch", switch))
        for step in (16, 32)
    ]:
        frame = pd.DataFrame({"prompt_id": [f"p{number:02d}" for number in range(PROMPTS)]})
        frame["hps"] = prompts + gain + rng.normal(0, 0.1, PROMPTS) * (step > 0)
        frames.append(frame.assign(path=path, step=step, epochs=step / 16, flagged=False))
    return pd.concat(frames, ignore_index=True)


def curve(stay: float, switch: float) -> pd.DataFrame:
    return curve_of(scores(stay, switch), ["hps"], TABLES, 0)


def test_intervals_are_of_the_differences_and_the_paths_share_their_start() -> None:
    found = curve(1.0, 2.0).set_index(["path", "step", "scorer"])
    assert tuple(found.loc[("start", 0, "hps"), ["difference", "low", "high"]]) == (0, 0, 0)
    for path, step, expected in (("stay", 32, 2), ("switch", 32, 4), ("between", 16, 1), ("between", 32, 2)):
        row = found.loc[(path, step, "hps")]
        assert row["difference"] == pytest.approx(expected, abs=0.1)
        assert row["low"] < row["difference"] < row["high"]
        assert row["high"] - row["low"] < 0.2, "not the spread of 10 between prompts"


def test_each_path_counts_its_own_epochs() -> None:
    given = scores(1.0, 2.0)
    given.loc[given["path"] == "stay", "epochs"] *= 2  # half as many rows
    found = curve_of(given, ["hps"], TABLES, 0).set_index(["path", "step", "scorer"])["epochs"]
    paths = ("start", 0), ("stay", 32), ("switch", 32), ("between", 32)
    assert [found[(*place, "hps")] for place in paths] == [0, 4, 2, 2]


@pytest.mark.parametrize(
    ("stay", "switch", "said"),
    [
        (1.0, 2.0, "Moving is better at 2 of 2 points and worse at 0."),
        (2.0, 1.0, "Moving is better at 0 of 2 points and worse at 2."),
        (1.0, 1.0, "Moving is better at 0 of 2 points and worse at 0; the others are not told apart."),
    ],
)
def test_the_sentence_follows_from_the_intervals(stay: float, switch: float, said: str) -> None:
    assert curve_line(curve(stay, switch), 0.95).endswith(said)


def test_few_prompts_decide_nothing_and_flagged_ones_do_not_count() -> None:
    given = scores(1.0, 2.0)
    for flagged in (PROMPTS - 5, PROMPTS):
        bad = given["prompt_id"].isin([f"p{number:02d}" for number in range(flagged)])
        given = given.assign(flagged=bad & (given["step"] == 16))
        if flagged == PROMPTS:
            with pytest.raises(EvaluationError, match="needs a prompt without flagged images"):
                curve_of(given, ["hps"], TABLES, 0)
        else:
            line = curve_line(curve_of(given, ["hps"], TABLES, 0), 0.95)
            assert line.endswith("5 prompts decide nothing; 20 are the fewest that may.")


def test_several_images_of_a_prompt_are_reduced_as_in_the_tables() -> None:
    given = scores(1.0, 2.0)
    twice = pd.concat([given, given.assign(hps=given["hps"] - 50)])
    best = curve_of(twice, ["hps"], TABLES, 0, "best")
    pd.testing.assert_frame_equal(best, curve_of(given, ["hps"], TABLES, 0))
    mean = curve_of(twice, ["hps"], TABLES, 0, "mean")
    assert mean["mean"].to_numpy() == pytest.approx(best["mean"].to_numpy() - 25)


def test_a_prompt_flagged_anywhere_is_left_out_everywhere() -> None:
    given = scores(1.0, 2.0)
    bad = (given["prompt_id"] == "p03") & (given["path"] == "stay")
    given.loc[bad, "hps"] = 1e6
    flagged = given.assign(flagged=bad & (given["step"] == 16))
    assert curve_of(flagged, ["hps"], TABLES, 0)["mean"].max() < 20


def test_figure_and_table_show_the_same_numbers() -> None:
    found = curve(1.0, 2.0)
    protocol = {
        "num_prompts": PROMPTS, "prompt_set": "val", "images_per_prompt": 1, "seed": 0, "scheduler": "ddim",
        "num_inference_steps": 4, "guidance_scale": 3.0,
    }  # fmt: skip
    table = curve_table(found, protocol, TABLES)
    assert table.count("moving over going on") == 2
    for axes in draw_curve(found).axes:
        stay, switch = (line.get_ydata() for line in axes.lines[:2])
        assert stay[0] == switch[0] == 0
        assert switch[2] == pytest.approx(2 * stay[2], rel=0.1)
        assert f"{switch[2]:+.3g} [" in table
