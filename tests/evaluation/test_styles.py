"""The HPSv2 benchmark's report: the numbers of its own code, and nothing but the whole benchmark."""

import numpy as np
import pandas as pd
import pytest

from spin.errors import EvaluationError
from spin.evaluation.styles import style_report, style_tables
from spin.prompts.named import HPS_STYLES


def scores(num_images: int = 1) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = [
        (f"hpsv2-{style}-{index:05d}", style, image)
        for style in HPS_STYLES
        for index in range(800)
        for image in range(num_images)
    ]
    frame = pd.DataFrame(rows, columns=["prompt_id", "category", "image_index"])
    return frame.assign(hps_v21=generator.normal(0.27, 0.02, len(frame)), flagged=False)


def official(frame: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """What hpsv2's evaluate prints, computed the plain way."""
    printed = {}
    for style in HPS_STYLES:
        res = list(100 * frame.loc[frame["category"] == style, "hps_v21"])
        groups = [sum(res[i : i + 80]) / 80 for i in range(0, len(res), 80)]
        mean = sum(groups) / len(groups)
        printed[style] = (mean, (sum((g - mean) ** 2 for g in groups) / len(groups)) ** 0.5)
    return printed


def test_each_style_has_the_mean_and_spread_that_the_benchmarks_own_code_prints() -> None:
    frame = scores()
    report = style_report(frame, "hps_v21", samples=50).set_index("style")
    for style, (mean, std) in official(frame).items():
        assert report["mean"][style] == pytest.approx(mean)
        assert report["std"][style] == pytest.approx(std)
    assert report["mean"]["overall"] == pytest.approx(100 * frame["hps_v21"].mean())
    assert report["prompts"].tolist() == [800, 800, 800, 800, 3200]
    assert ((report["low"] <= report["mean"]) & (report["mean"] <= report["high"])).all()


def test_the_report_does_not_depend_on_the_order_of_rows() -> None:
    frame = scores(2)
    shuffled = style_report(frame.sample(frac=1, random_state=1), "hps_v21", samples=20)
    pd.testing.assert_frame_equal(shuffled, style_report(frame, "hps_v21", samples=20))


def test_several_images_of_a_prompt_are_averaged_before_groups_are_made() -> None:
    frame = scores(3)
    reduced = frame.groupby(["prompt_id", "category"], as_index=False)["hps_v21"].mean()
    report = style_report(frame, "hps_v21", samples=20).set_index("style")
    assert report["std"]["photo"] == pytest.approx(official(reduced)["photo"][1])


def test_a_flagged_image_takes_no_part_and_does_not_move_the_groups() -> None:
    frame = scores()
    first = frame["prompt_id"] == "hpsv2-anime-00000"
    frame.loc[first, ["hps_v21", "flagged"]] = [-5.0, True]
    report = style_report(frame, "hps_v21", samples=20).set_index("style")
    values = 100 * frame.loc[(frame["category"] == "anime"), "hps_v21"].to_numpy(float)
    groups = [values[1:80].mean(), *(values[i : i + 80].mean() for i in range(80, 800, 80))]
    assert report["mean"]["anime"] == pytest.approx(np.mean(groups))
    assert report["flagged"].to_dict() == {
        "anime": 1,
        "concept-art": 0,
        "paintings": 0,
        "photo": 0,
        "overall": 1,
    }
    for table in style_tables({"base": report.reset_index()}, "hps_v21", "HPS v2.1", "Protocol."):
        assert "1 images were left out as flagged." in table.notes


def test_the_median_of_a_style_is_over_its_prompts_and_has_a_table_of_its_own() -> None:
    frame = scores(2)
    report = style_report(frame, "hps_v21", samples=50)
    by_prompt = 100 * frame.groupby(["category", "prompt_id"])["hps_v21"].mean()
    found = report.set_index("style")
    for style in HPS_STYLES:
        assert found["median"][style] == pytest.approx(by_prompt[style].median())
        assert found["median_low"][style] <= found["median"][style] <= found["median_high"][style]
    assert found["median"]["overall"] == pytest.approx(by_prompt.median())
    means, medians = style_tables({"base": report}, "hps_v21", "HPS v2.1", "Protocol.")
    assert medians.name == "styles_hps_v21_median"
    assert f"{found['median']['photo']:.2f}" in medians.to_markdown() != means.to_markdown()


def test_anything_but_the_whole_benchmark_is_refused() -> None:
    with pytest.raises(EvaluationError, match="800 prompts of style anime, got 799"):
        style_report(scores().iloc[1:], "hps_v21")
    with pytest.raises(EvaluationError, match="800 prompts of style photo, got 0"):
        style_report(scores().replace({"category": {"photo": "sketch"}}), "hps_v21")
    with pytest.raises(EvaluationError, match="needs the column hps,"):
        style_report(scores(), "hps")
    with pytest.raises(EvaluationError, match="must have finite scores"):
        style_report(scores().assign(hps_v21=np.nan), "hps_v21")


def test_the_table_says_which_version_and_marks_the_best() -> None:
    better = scores().assign(hps_v21=scores()["hps_v21"] + 0.01)
    reports = {"base": style_report(scores(), "hps_v21", samples=20)}
    reports["iter1"] = style_report(better, "hps_v21", samples=20)
    text = style_tables(reports, "hps_v21", "HPS v2.1", "Protocol.")[0].to_markdown()
    assert "| Model | anime | concept-art | paintings | photo | overall |" in text
    assert "HPS v2.1, times 100" in text
    assert "groups of 80 prompts" in text
    assert text.count("**") == 2 + 2 * 5
    spread = reports["base"]["std"].iloc[0]
    assert (
        f"Standard deviation over groups, anime, concept-art, paintings, photo: Base {spread:.2f}, " in text
    )
