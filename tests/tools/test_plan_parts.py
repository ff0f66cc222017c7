"""A plan counts losers, mirrored images, scorers, comparisons and references, each as often as the stages run it."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spin.cli import main
from spin.params.schema import Params, load_params
from spin.rewards.costs import scoring_costs
from spin.stages.data import run_data
from spin.tools.plan.counts import count_pair_images, count_pairs, count_prompts
from spin.tools.plan.estimate import make_plan
from spin.tools.plan.published import PEAK_FP32_TFLOPS, PEAK_TFLOPS
from tests.data.sources import write_pickapic
from tests.models.tiny import ROOT, write_params
from tests.tools.planned import COST, counts, params, work_of


def with_comparison() -> dict[str, Any]:
    """The embedded profile with a comparison on the validation prompts, every 16 of 64 updates."""
    raw = params().model_dump()
    raw["prompt_sets"]["val"]["images_per_prompt"] = None
    raw["evaluate"]["prompt_sets"] = ["test"]
    raw["continual"] = {"f5": {"finished": "iter1", "next": "iter2", "every": 16, "prompts": "val"}}
    return raw


def test_winners_and_losers_are_encoded_and_kept_each_once() -> None:
    single = make_plan(params(), COST, counts(pair_images=0))
    pairs = make_plan(params(), COST, counts(pair_images=1024))
    assert work_of(single)["encode images"].images == 512
    assert work_of(pairs)["encode images"].images == 1024, "the winners are the training images"
    assert work_of(pairs)["encode images"].tflop == 1024 * 0.5
    assert pairs.disk["training images"] == pytest.approx(2 * single.disk["training images"])
    posteriors = pairs.disk["cache of latents and text"] - single.disk["cache of latents and text"]
    assert posteriors == pytest.approx(512 * 2 * 4 * 16 / 2**30), "a caption has no second text"


def test_mirrored_images_are_encoded_twice_and_decoded_once() -> None:
    plain = make_plan(params(), COST, counts())
    flipped = make_plan(params(training__horizontal_flip=True), COST, counts())
    assert work_of(flipped)["encode images"].tflop == 2 * work_of(plain)["encode images"].tflop
    more = work_of(flipped)["draw opponents"].tflop - work_of(plain)["draw opponents"].tflop
    assert more == 3 * 512 * 0.5
    assert flipped.disk["opponents"] > plain.disk["opponents"]


def test_every_scorer_sees_every_image_of_models_and_levels() -> None:
    plan = make_plan(params(), COST, counts(scorers={"pickscore": 0.125, "mine": None, "oracle_psnr": 0.0}))
    scored = work_of(plan)["score by pickscore"]
    images = 6 * (256 + 2 * 72) + 256 + 72
    assert scored.images == images, "six models, and the ceiling with an image a prompt"
    assert scored.tflop == 0.125 * images
    assert scored.parts.keys() == {"scorer pickscore"}
    assert scored.forwards == 0
    assert not {"score by mine", "score by oracle_psnr"} & work_of(plan).keys()
    assert plan.not_counted == ["mine"], "an oracle costs nothing; a scorer of the user's own is named"


def test_a_comparison_trains_twice_and_draws_and_scores_at_every_point_on_one_gpu() -> None:
    compared = Params.model_validate(with_comparison())
    assert count_prompts(compared) == {"test": 256, "val": 72}, "it is drawn, though not evaluated"
    plan = make_plan(compared, COST, counts())
    work = work_of(plan)
    assert work["continual f5: train"].tflop == 2 * work["train iter2"].tflop
    assert work["continual f5: train"].reference == 2 * work["train iter2"].reference
    points = 1 + 2 * 64 // 16
    assert work["continual f5: draw"].images == points * 72
    assert work["continual f5: draw"].forwards == points * 72 * 2 * 15
    assert work["continual f5: score"].tflop == points * 72 * 0.125
    assert {name for name, item in work.items() if item.one_gpu} == {
        name for name in work if name.startswith("continual")
    }
    kept = plan.disk["snapshots of a comparison, until it is recorded"]
    assert kept == pytest.approx(2 * (64 // 16 + 1) * 4 * 1000 / 2**30)


def test_a_random_reference_holds_all_earlier_iterates_in_memory() -> None:
    one = make_plan(params(), COST, counts()).memory
    three = make_plan(params(objective__reference="random"), COST, counts()).memory
    assert three["opponents, 3 of them"] == pytest.approx(3 * one["opponent"])


def test_with_a_number_of_draws_the_reference_runs_at_the_first_visits_alone_and_takes_no_memory() -> None:
    """64 updates of 32 visit 512 rows four times."""
    plans = {
        draws: make_plan(params(training__reference_draws=draws), COST, counts()) for draws in (1, 3, 4, 9)
    }
    for draws, plan in plans.items():
        work = work_of(plan)
        for name in ("train iter1", "train dpo"):
            assert work[name].reference == 2 * 512 * min(draws, 4)
            assert work[name].forwards == 2 * 64 * 32 + work[name].reference
            assert work[name].tflop == 6 * 64 * 32 + work[name].reference
        assert work["train sft"].reference == 64 // 8 * 32, "as ever"
    many = make_plan(params(training__reference_draws=1), COST, counts(images=1000, pairs=100))
    assert work_of(many)["train iter1"].reference == 2 * 32 * 32, "whole updates: 1000 are not divided by 32"
    assert work_of(many)["train dpo"].reference == 2 * 32 * 4
    all_draw = params(training__reference_draws=1, opponents__drawn_by="all_earlier")
    assert work_of(make_plan(all_draw, COST, counts()))["train iter3"].reference == 2 * 512 * 3
    assert "opponent" in plans[1].memory, "fine-tuning's"
    raw = params(training__reference_draws=1).model_dump()
    del raw["baselines"]["sft"]
    raw["evaluate"]["models"].remove("sft")
    without = make_plan(Params.model_validate(raw), COST, counts())
    assert plans[1].memory.keys() - without.memory.keys() == {"opponent"}


def test_with_a_number_of_draws_the_reference_runs_for_every_repeat_of_an_image() -> None:
    """64 updates of 8 visit 512 of 4 x 200 draws."""
    given = params().model_dump()
    given["training"] |= {"reference_draws": 4, "batch_size": 8, "micro_batch_size": 8}
    given["continual"] = {"f5": {"finished": "iter1", "next": "iter2", "every": 16, "prompts": "val"}}
    for rows, updates in ((20, 10), (200, 64)):
        work = work_of(make_plan(Params.model_validate(given), COST, counts(images=20, rows=rows)))
        assert work["train iter1"].reference == 2 * 8 * updates
        assert work["continual f5: train"].reference == 2 * 2 * 8 * updates


def test_pairs_are_counted_where_they_lie_and_else_taken_from_pick_a_pic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert count_pair_images(params(), 512, None) == 2 * 512
    assert count_pair_images(load_params(ROOT / "profiles" / "sd15.yaml"), 58_960, None) == 0
    source = write_pickapic(tmp_path / "pickapic")
    raw = load_params(ROOT / "profiles" / "paper.yaml").model_dump() | {"resolution": 32}
    raw["data"] |= {"source": str(source), "num_val": 4, "num_test": 4}
    paper = Params.model_validate(raw)
    assert count_pair_images(paper, 58_960, None) == 2 * 851_293
    assert count_pair_images(paper, 58_960, 10) == 20
    run_data(paper)
    with tarfile.open(tmp_path / "outputs/data/images/shard-00000.tar") as shard:
        images = shard.getnames()
    assert count_pair_images(paper, 12, None) == len(images)
    assert count_pairs(paper, 12, None) == len(pd.read_parquet("outputs/data/pairs.parquet"))
    assert (count_pairs(paper, 12, 10), count_pairs(params(), 512, None)) == (10, 512)


@pytest.mark.parametrize("name", ["pickscore", "hps", "image_reward", "aesthetic", "clip"])
def test_a_scorer_costs_two_operations_a_weight_and_token_and_a_little_for_attention(name: str) -> None:
    """Of the two towers: weights of the layers, 257 or 197 patches, 77 or 35 tokens."""
    by_hand = {"pickscore": 2 * (632 * 257 + 303 * 77), "clip": 2 * (303 * 257 + 85 * 77)}
    by_hand |= {"hps": by_hand["pickscore"], "aesthetic": 2 * 303 * 257, "image_reward": 2 * 303 * 197}
    raw = params().model_dump()
    raw["scorers"][name]["source"] = "hub"
    cost = scoring_costs(Params.model_validate(raw))[name]
    assert cost is not None
    assert 1.0 < cost * 1e6 / by_hand[name] < 1.2


def test_what_is_in_float32_is_billed_so_and_a_comparison_on_one_gpu(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = with_comparison()
    raw["base"]["source"] = str(tiny_base)
    for section in ("training", "opponents"):
        raw[section]["precision"] = "bf16"
    write_params(tmp_path, raw)
    options = ["plan", "--params", str(tmp_path / "params.yaml"), "--gpu", "a100", "--gpus", "8"]
    assert main([*options, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rates = {item["name"]: item["tflop"] / plan["hours"][item["name"]] / 3600 / 0.35 for item in plan["work"]}
    half, single = PEAK_TFLOPS["a100"], PEAK_FP32_TFLOPS["a100"]
    assert rates["train iter1"] == pytest.approx(8 * half)
    assert rates["score by hps"] == rates["encode images"] == pytest.approx(8 * single)
    assert rates["draw evaluation images"] == pytest.approx(8 * single), "its precision is fp32"
    assert 8 * single < rates["draw opponents"] < 8 * half, "the autoencoder of a half-precision sampler"
    assert rates["continual f5: train"] == pytest.approx(half)
    assert rates["continual f5: score"] == pytest.approx(single)
    assert main(options) == 0
    assert "A comparison runs on one GPU." in capsys.readouterr().out
    assert main([*options, "--tflops", "100", "--json"]) == 0
    hours = json.loads(capsys.readouterr().out)["hours"]
    scored = next(item["tflop"] for item in plan["work"] if item["name"] == "score by hps")
    assert hours["score by hps"] == pytest.approx(scored / 100 / 8 / 0.35 / 3600)


@pytest.mark.slow
def test_the_plan_in_the_documentation_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    command, shown = re.findall(
        r"^    python -m spin (plan .*)\n(?:.*\n)*?```text\n([^`]*)\n```", page, re.M
    )[0]
    assert main(command.split()) == 0
    assert shown == capsys.readouterr().out.rstrip()
