"""A plan counts what the stages do, with FLOPs of the real architectures."""

import json
from pathlib import Path

import pandas as pd
import pytest

from spin.cli import main
from spin.errors import DataError
from spin.models.flops import NetworkCost, build_denoiser, measure_networks
from spin.params.data import FolderData
from spin.params.schema import Params, load_params
from spin.runtime.files import write_json
from spin.stages.data import run_data
from spin.tools.plan.command import duration
from spin.tools.plan.counts import count_adapters, count_images, count_prompts, count_rows, notes_on
from spin.tools.plan.estimate import make_plan
from spin.tools.plan.published import CONFIGS
from tests.data.images import NUMBERED, write_numbered
from tests.models.tiny import ROOT
from tests.tools.planned import COST, counts, params, work_of

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(scope="module")
def sd15_cost() -> NetworkCost:
    return measure_networks(*CONFIGS[SD15], resolution=512, bytes_per=2, checkpointing=False)


def test_stable_diffusion_is_counted_as_large_as_it_is(sd15_cost: NetworkCost) -> None:
    assert sd15_cost.parameters == 859_520_964
    assert sd15_cost.forward == pytest.approx(0.803, abs=0.001)
    assert (sd15_cost.forward + sd15_cost.backward) / sd15_cost.forward == pytest.approx(3.0, abs=0.01)
    assert sd15_cost.encode / sd15_cost.forward == pytest.approx(1.39, abs=0.01)
    assert sd15_cost.decode / sd15_cost.forward == pytest.approx(3.13, abs=0.01)


def test_checkpointing_trades_time_for_memory(sd15_cost: NetworkCost) -> None:
    saving = measure_networks(*CONFIGS[SD15], resolution=512, bytes_per=2, checkpointing=True)
    assert (saving.forward + saving.backward) / saving.forward == pytest.approx(3.74, abs=0.05)
    assert saving.activations < sd15_cost.activations / 2


def test_a_pair_costs_four_forwards_and_two_backwards_and_two_forwards_are_the_references() -> None:
    work = work_of(make_plan(params(), COST, counts()))
    for name in ("train iter1", "train dpo"):
        assert work[name].images == 64 * 32
        assert work[name].forwards == 4 * 64 * 32
        assert work[name].reference == 2 * 64 * 32
        assert work[name].tflop == 8 * 64 * 32


def test_fine_tuning_runs_its_reference_in_every_eighth_update_only() -> None:
    work = work_of(make_plan(params(), COST, counts()))["train sft"]
    assert work.reference == 64 // 8 * 32
    assert work.forwards == 64 * 32 + 64 // 8 * 32
    assert work.tflop == (1 + 2) * 64 * 32 + 64 // 8 * 32, "an image alone, and an eighth of a reference"


def test_the_exact_objective_costs_ten_forwards_a_step() -> None:
    exact = params(objective__kind="exact", objective__timestep_weighting="exact")
    work = work_of(make_plan(exact, COST, counts()))
    assert work["train iter1"].forwards == 6 * 15 * 64 * 32
    assert work["train iter1"].reference == 2 * 15 * 64 * 32
    assert work["train iter1"].tflop == 10 * 15 * 64 * 32
    assert work["train dpo"].tflop == 8 * 64 * 32, "a baseline keeps its own objective"


def test_guidance_doubles_the_cost_of_drawing() -> None:
    alone = make_plan(params(opponents__guidance_scale=1.0), COST, counts())
    guided = make_plan(params(opponents__guidance_scale=3.0), COST, counts())
    drawn = [work_of(plan)["draw opponents"] for plan in (alone, guided)]
    assert drawn[0].images == 3 * 512
    assert drawn[1].forwards == 2 * drawn[0].forwards == 2 * 3 * 512 * 15


def test_all_earlier_iterates_draw_one_more_set_each_iteration() -> None:
    plan = make_plan(params(opponents__drawn_by="all_earlier"), COST, counts(images=100))
    assert work_of(plan)["draw opponents"].images == 100 * (1 + 2 + 3)


def test_a_prompt_set_counts_with_its_own_number_of_images() -> None:
    assert count_prompts(params()) == {"test": 256, "val": 72}
    for images in (1, 3):
        work = work_of(make_plan(params(evaluate__images_per_prompt=images), COST, counts()))
        assert work["draw evaluation images"].images == 6 * (256 * images + 72 * 2)


def test_adapters_are_trained_and_stored_instead_of_the_network() -> None:
    lora = {"rank": 4, "alpha": 4.0, "targets": ["to_q"]}
    whole, low_rank = (
        make_plan(params(), COST, counts(adapters=50)),
        make_plan(params(training__lora=lora), COST, counts(adapters=50)),
    )
    assert (whole.trainable, low_rank.trainable) == (1000, 50)
    assert low_rank.disk["checkpoints"] == pytest.approx(whole.disk["checkpoints"] / 20)


def test_nothing_is_held_for_training_where_nothing_trains() -> None:
    raw = params().model_dump()
    raw |= {"data": {"kind": "none"}, "iterations": {}, "baselines": {}}
    raw["released"] = {"other": {"source": "folder", "revision": None}}
    raw["prompt_sets"] = {"gallery": {"prompts": "spin_figure2", "source": None, "images_per_prompt": None}}
    raw["evaluate"] |= {"models": ["base", "other"], "references": [], "prompt_sets": ["gallery"]}
    raw["tables"]["over"] = ["base"]
    plan = make_plan(
        Params.model_validate(raw), COST, counts(images=0, pair_images=0, prompts={"gallery": 3})
    )
    assert (plan.trainable, plan.memory) == (0, {})
    assert [name for name, amount in plan.disk.items() if amount] == ["evaluation images"]
    assert [item.name for item in plan.work] == ["draw evaluation images", "score by pickscore"]


def test_the_images_of_another_data_set_that_was_brought_in_here_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sd15 = load_params(ROOT / "profiles" / "sd15.yaml")
    card = {"source": "the embedded world", "kept": {"train": 512}}
    write_json(tmp_path / "outputs/data/card.json", card)
    with pytest.raises(DataError, match="give it with --images"):
        count_images(sd15, None)
    write_json(tmp_path / "outputs/data/card.json", card | {"source": "yuvalkirstain/pickapic_v2"})
    assert count_images(sd15, None) == 512


def test_rows_are_images_as_often_as_their_folders_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_numbered(tmp_path / "images")
    shared = {"small_images": "drop", "aspect_buckets": None, "trigger": None, "repeats": True}
    data = FolderData(kind="folder", path="images", num_val=1, num_test=2, **shared)
    numbered = params().model_copy(update={"data": data})
    assert count_rows(numbered, 13) == sum(
        int(name.partition("_")[0]) * count for name, count in NUMBERED.items()
    )
    (said,) = notes_on(numbered, None)
    assert "counted by the names of their files" in said
    assert not notes_on(numbered, 13)
    run_data(numbered)
    assert not notes_on(numbered, None), "the stage says how many are of use"
    repeats = pd.read_parquet("outputs/data/manifest.parquet").query("split == 'train'")["repeats"]
    assert count_rows(numbered, len(repeats)) == sum(repeats) > len(repeats)
    plain = params().model_copy(update={"data": data.model_copy(update={"repeats": False})})
    assert count_rows(plain, 13) == count_rows(params(), 13) == 13


def test_adapters_are_counted_as_peft_makes_them(tiny_base: Path) -> None:
    from peft import LoraConfig

    network = build_denoiser(json.loads((tiny_base / "unet" / "config.json").read_text()))
    targets = ["to_q", "to_out.0"]
    expected = count_adapters(network, 3, targets)
    network.add_adapter(LoraConfig(r=3, target_modules=targets), "player")
    assert sum(weight.numel() for name, weight in network.named_parameters() if "lora" in name) == expected


def test_the_command_prints_a_plan_of_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    for profile in sorted((ROOT / "profiles").glob("toy*.yaml")):
        assert main(["plan", "--params", str(profile), "--gpu", "t4", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        stages = load_params(profile)
        assert {f"train {name}" for name in stages.iterations} <= plan["hours"].keys()


def test_times_are_told_in_a_unit_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    told = [duration(hours) for hours in (0.0008, 0.0977, 12.46, 2944.3)]
    assert told == ["2.88 s", "5.86 min", "12.5 h", "2,944 h"]
    assert main(["plan", "--params", str(ROOT / "profiles/toy.yaml")]) == 0
    (line,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("train iter1"))
    assert line.endswith(" s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "abacus"], "--gpu must be one of"),
        (["--gpus", "0"], "--gpus must be > 0, got 0"),
        (["--params", "nowhere.yaml"], "must be a parameter file, found none"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--params", str(ROOT / "profiles/toy.yaml"), *options]) == 2
    assert message in capsys.readouterr().err
