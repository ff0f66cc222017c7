"""The champion is who wins head to head: each clause of the rule, and that page, console and registry say the same."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spin.errors import ModelError
from spin.evaluation.champion import FEWEST, MOST_LOST, candidates, choose, choosing_set, misaligned
from spin.evaluation.findings import champion_line, findings
from spin.evaluation.tables import read_chosen, read_tables, write_tables
from spin.evaluation.terminal import console_table
from spin.params.schema import Params
from spin.runtime.files import read_json, write_json
from spin.stages.registry import describe_models, registered_name
from tests.evaluation.fake_scores import LEVEL, score_frame, write_scores
from tests.evaluation.toy_params import params

THREE = ["iter1", "iter2", "iter3"]


def duels(results: dict[tuple[str, str], float], n: int = 100, models: list[str] = THREE) -> pd.DataFrame:
    """Meetings with the given winning rates, others even; more than 5 points from one half are decided."""
    rows = []
    for model, over in itertools.permutations(models, 2):
        rate = results.get((model, over), 1 - results.get((over, model), 0.5))
        decides = n >= FEWEST and abs(rate - 0.5) > 0.05
        rows.append((model, over, rate, rate - 0.05, rate + 0.05, n, decides))
    return pd.DataFrame(rows, columns=["model", "over", "win_rate", "low", "high", "n", "decides"])


def test_the_one_that_nobody_beats_is_the_champion_wherever_it_stands() -> None:
    for best in THREE:
        others = [name for name in THREE if name != best]
        choice = choose(duels({(best, other): 0.6 for other in others}), THREE)
        assert choice == (best, [], False, [], True)


def test_of_several_that_cannot_be_told_apart_the_earliest_is_taken_and_the_others_are_named() -> None:
    assert choose(duels({}), THREE) == ("iter1", ["iter2", "iter3"], False, [], True)
    beaten = duels({("iter3", "iter1"): 0.6, ("iter2", "iter3"): 0.54})
    assert choose(beaten, THREE) == ("iter2", ["iter3"], False, [], True)


def test_a_circle_is_won_by_most_wins_and_then_by_the_mean_rate() -> None:
    circle = {("iter1", "iter2"): 0.6, ("iter2", "iter3"): 0.7, ("iter3", "iter1"): 0.6}
    assert choose(duels(circle), THREE)[:3] == ("iter2", [], True)
    four = [*THREE, "iter4"]
    more = circle | {("iter1", "iter4"): 0.6, ("iter3", "iter4"): 0.6, ("iter4", "iter2"): 0.6}
    champion = choose(duels(more, models=four), four).champion
    assert champion == "iter1", "two wins, as iter3, at 53% against 50%"
    often = {("iter4", "iter3"): 0.56, ("iter4", "iter2"): 0.56, ("iter1", "iter4"): 0.9}
    often |= {("iter2", "iter1"): 0.6, ("iter3", "iter1"): 0.6}
    assert choose(duels(often, models=four), four).champion == "iter4", "two wins at 41%, iter1 one at 57%"


def test_who_lost_alignment_is_left_out_unless_it_is_everyone() -> None:
    won = duels({("iter3", "iter1"): 0.8, ("iter3", "iter2"): 0.8, ("iter2", "iter1"): 0.6})
    assert choose(won, THREE).champion == "iter3"
    assert choose(won, THREE, ["iter3"]) == ("iter2", [], False, ["iter3"], True)
    assert choose(won, THREE, THREE) == ("iter3", [], False, THREE, True)


def test_a_few_prompts_choose_nobody_but_the_first() -> None:
    won = duels({("iter3", "iter1"): 1.0, ("iter3", "iter2"): 1.0}, n=FEWEST - 1)
    assert choose(won, THREE) == ("iter1", ["iter2", "iter3"], False, [], False)
    assert (
        choose(duels({("iter3", "iter1"): 1.0, ("iter3", "iter2"): 1.0}, n=FEWEST), THREE).champion == "iter3"
    )


@pytest.mark.parametrize(("high", "lost"), [(-0.0041, True), (-0.0039, False), (0.001, False)])
def test_alignment_is_lost_where_the_whole_interval_is_further_down_than_allowed(
    high: float, lost: bool
) -> None:
    means = pd.DataFrame({"model": ["base", "iter1"], "scorer": "clip", "std": [0.04, 0.5]})
    rows = {"model": ["iter1", "iter2"], "over": "base", "scorer": "clip", "high": [high, 0.5]}
    assert pytest.approx(0.004) == MOST_LOST * 0.04
    assert misaligned(pd.DataFrame(rows), means, THREE) == (["iter1"] if lost else [])
    assert misaligned(pd.DataFrame(rows), means.assign(scorer="hps"), THREE) == [], "no CLIP, no such clause"


def with_validation(**evaluate: Any) -> Params:
    raw = params(**evaluate).model_dump()
    raw["prompt_sets"]["val"] = {"prompts": "val", "source": None, "images_per_prompt": None}
    raw["evaluate"]["prompt_sets"] = ["test", "val"]
    return Params.model_validate(raw)


def with_iterations(names: list[str]) -> Params:
    raw = params().model_dump()
    raw["iterations"] = {name: raw["iterations"][name] for name in names}
    raw["evaluate"]["models"] = ["base", "sft", "dpo", *names]
    return Params.model_validate(raw)


def test_validation_prompts_choose_where_a_run_evaluates_them() -> None:
    assert choosing_set(params()) == "test"
    assert choosing_set(with_validation()) == "val"
    few = with_validation().model_dump()
    few["data"]["num_val"] = FEWEST - 1
    assert choosing_set(Params.model_validate(few)) == "test", "prompts that decide nothing do not choose"
    assert candidates(params()) == THREE


def saturated(scores: Path, best: str = "iter2", prompts: int = 64) -> None:
    """All iterations win nearly every prompt over the base, iteration 1 the most, and `best` wins over the others."""
    step = {"iter1": 6.0, "iter2": 6.0, "iter3": 6.0} | {best: 6.25}
    for model in LEVEL:
        frame = score_frame("base", prompts)
        luck = np.random.default_rng(sum(map(ord, model))).normal(size=len(frame))
        for scorer in ("pickscore", "hps", "image_reward", "aesthetic"):
            spread = frame[scorer].std()
            if model in step:
                frame[scorer] += spread * (step[model] + 0.1 * luck)
                frame.loc[0 if model == best else [], scorer] -= (
                    20 * spread
                )  # the best loses a prompt to the base
        write_scores(scores / model, frame, prompt_set=scores.name)


def test_the_demos_fault_does_not_come_back(tmp_path: Path) -> None:
    """A model with the lower winning rate over the base is champion where it wins head to head; all places say so."""
    saturated(tmp_path / "outputs/scores/test")
    write_tables(params(), tmp_path / "outputs/scores/test", tmp_path / "outputs/tables/test")
    summary = read_json(tmp_path / "outputs/tables/test/summary.json")
    rates = {name: rate["average"] for name, rate in summary["win_rate_over_base"].items()}
    assert rates["iter1"] > rates["iter2"] > 0.9
    for name in THREE:
        (tmp_path / "outputs/checkpoints" / name).mkdir(parents=True)
    entries = describe_models(params(), tmp_path)
    assert [entry["model"] for entry in entries if entry["champion"]] == ["iter2"] == [summary["champion"]]
    (meeting, _) = next(entry["head_to_head"] for entry in entries if entry["champion"])
    assert meeting["over"] == "iter1"
    assert meeting["low"] > 0.5
    line = champion_line(summary)
    assert line in console_table(tmp_path / "outputs/tables/test")
    measures, _ = read_tables(tmp_path / "outputs/tables/test")
    said = findings(measures, summary, summary)
    assert said[0] == line
    assert "SPIN iter 2 is the best iteration, head to head: on 64 test prompts it wins" in line
    assert (
        f"{100 * meeting['win_rate']:.1f}% over SPIN iter 1 (95% interval {100 * meeting['low']:.1f} to"
        in line
    )
    assert "chosen on the very prompts that report" in said[1]


def test_validation_chooses_and_test_reports_though_it_would_choose_another(tmp_path: Path) -> None:
    given = with_validation()
    for name, best in (("val", "iter3"), ("test", "iter2")):
        saturated(tmp_path / "outputs/scores" / name, best)
        write_tables(given, tmp_path / "outputs/scores" / name, tmp_path / "outputs/tables" / name)
    tables = tmp_path / "outputs/tables/test"
    measures, summary = read_tables(tables)
    chosen = read_chosen(tables)
    assert (chosen["champion"], summary["champion"]) == ("iter3", "iter2")
    said = " ".join(findings(measures, summary, chosen))
    assert "SPIN iter 3 is the best iteration, head to head: on 64 val prompts" in said
    assert "On these 64 prompts, which did not choose it, it wins" in said
    assert "By these prompts SPIN iter 2 would be chosen." in said
    for name in THREE:
        (tmp_path / "outputs/checkpoints" / name).mkdir(parents=True)
    assert [entry["champion"] for entry in describe_models(given, tmp_path)] == [False, False, True]
    assert "SPIN iter 3 is the best iteration" in console_table(tables)


def test_a_single_iteration_is_the_champion_and_is_held_against_the_base(
    scores: Path, tmp_path: Path
) -> None:
    write_tables(with_iterations(["iter1"]), scores, tmp_path / "test")
    line = champion_line(read_json(tmp_path / "test" / "summary.json"))
    assert line.startswith("SPIN iter 1 is the only iteration: on 24 test prompts it wins ")
    assert "% over Base (95% interval " in line


def test_a_run_without_iterations_chooses_among_its_models(scores: Path, tmp_path: Path) -> None:
    write_scores(scores / "dpo", score_frame("dpo", 24).assign(pickscore=99.0, hps=99.0, aesthetic=99.0))
    write_tables(with_iterations([]), scores, tmp_path / "test")
    measures, summary = read_tables(tmp_path / "test")
    said = " ".join(findings(measures, summary, summary))
    assert said.startswith("Diffusion-DPO is the best model, head to head: on 24 test prompts it wins")


def test_who_pays_with_alignment_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    saturated(tmp_path / "test", "iter3")
    frame = pd.read_parquet(tmp_path / "test/iter3/scores.parquet")
    write_scores(tmp_path / "test/iter3", frame.assign(clip=frame["clip"] - frame["clip"].std()))
    write_tables(params(), tmp_path / "test", tmp_path / "tables/test")
    summary = read_json(tmp_path / "tables/test/summary.json")
    assert summary["champion"] != "iter3"
    assert summary["choice"]["misaligned"] == ["iter3"]
    assert "SPIN iter 3 was left out: the mean CLIP is more than 0.1 standard deviations" in champion_line(
        summary
    )


def test_a_few_prompts_are_said_to_decide_nothing_on_page_and_console(tmp_path: Path) -> None:
    saturated(tmp_path / "test", prompts=8)
    write_tables(params(), tmp_path / "test", tmp_path / "tables/test")
    measures, summary = read_tables(tmp_path / "tables/test")
    said = " ".join(findings(measures, summary, summary))
    assert said.startswith("8 test prompts decide nothing, 20 are the fewest that may: SPIN iter 1 is named")
    assert "better" not in said
    assert "significant" not in said
    text = console_table(tmp_path / "tables/test")
    assert "8 prompts decide nothing" in text
    assert "*" not in text, "nothing is marked as the best"
    assert "**" not in (tmp_path / "tables/test/winrate_over_base.md").read_text().split("\n", 1)[1]


def test_the_registered_model_is_named_after_a_base_that_reads(tmp_path: Path) -> None:
    write_json(tmp_path / "outputs" / "checkpoints" / "base" / "model.json", [])
    with pytest.raises(ModelError, match=r"base/model\.json must be what a stage wrote of a model"):
        registered_name(params(), tmp_path)
