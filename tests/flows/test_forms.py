"""What a deployment is asked for: its parameters, which stages and checkpoints are meant, and what prefect.yaml says of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.evaluate import find, names_of
from flows.left_running import MAX_STARTS, STARTS_AGAIN
from flows.parameters import checked, chosen, for_evaluation
from spin.errors import ParamsError, SpinError

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = {"source": "mhdang/dpo-sd1.5-text2image-v1", "revision": None}


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    plain = chosen(ROOT, None, {})
    raw = chosen(ROOT, None, {"training.batch_size": 64, "iterations.iter1.num_steps": 8, "seed": 3})
    assert (
        raw["training"].pop("batch_size"),
        raw["iterations"]["iter1"].pop("num_steps"),
        raw.pop("seed"),
    ) == (64, 8, 3)
    del plain["training"]["batch_size"], plain["iterations"]["iter1"]["num_steps"], plain["seed"]
    assert raw == plain


def test_a_profile_takes_the_place_of_the_parameters() -> None:
    raw = chosen(ROOT, "sd15-lora", {"training.batch_size": 16})
    expected = yaml.safe_load((ROOT / "profiles" / "sd15-lora.yaml").read_text())
    assert raw["base"] == expected["base"]
    assert raw["training"] == expected["training"] | {"batch_size": 16}


@pytest.mark.parametrize(
    ("profile", "overrides", "sentence"),
    [
        ("sd16", {}, "profile must be one of .*toy.*, got sd16; choose"),
        (
            None,
            {"training.btch_size": 64},
            "unknown key training.btch_size; did you mean training.batch_size?",
        ),
        (None, {"trianing.batch_size": 64}, "unknown key trianing; did you mean training?"),
        (None, {"seed.of": 64}, "seed has no parts, so no seed.of; set seed"),
        (None, {"training.batch_size": "many"}, "training.batch_size must be a whole number"),
        (None, {"base.source": "no/such/folder"}, "base.source must be .* but there is no folder or file"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    profile: str | None, overrides: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpinError, match=sentence) as refused:
        checked(chosen(ROOT, profile, overrides), ROOT)
    assert "\n" not in str(refused.value)


def test_an_evaluation_trains_nothing_and_keeps_the_protocol() -> None:
    raw = chosen(ROOT, None, {})
    other = {"source": "UCLA-AGI/SPIN-Diffusion-iter1", "revision": None}
    params = checked(for_evaluation(raw, {"theirs": OVERLAY, "mine": other}, []), ROOT)
    assert not params.iterations
    assert not params.baselines
    assert params.evaluate.models == ["base", "theirs", "mine"]
    assert params.tables.over == ["base", "theirs"]
    changed = {"models", "prompt_sets", "references"}
    assert params.evaluate.model_dump(exclude=changed) == {
        key: value for key, value in raw["evaluate"].items() if key not in changed
    }
    assert params.data.kind == "toy", "for the captions that it holds out"
    assert params.evaluate.references == ["clean"]


def test_an_evaluation_on_prompts_from_elsewhere_brings_in_no_data() -> None:
    raw = chosen(
        ROOT,
        None,
        {"prompt_sets.parti": {"prompts": "parti_prompts", "source": None, "images_per_prompt": 3}},
    )
    params = checked(for_evaluation(raw, {"theirs": OVERLAY}, ["parti"]), ROOT)
    assert params.data.kind == "none"
    assert params.evaluate.references == []
    assert not {"oracle_psnr", "oracle_attributes"} & params.scorers.keys(), "they know other captions only"
    assert list(params.prompt_sets) == ["parti"]
    assert params.evaluate_on("parti").images_per_prompt == 3
    with pytest.raises(
        ParamsError, match=r"prompt_sets must name some of test, val, parti, got hps; correct the name\."
    ):
        for_evaluation(raw, {"theirs": OVERLAY}, ["hps"])


def test_checkpoints_are_named_after_where_they_are_and_each_differently() -> None:
    sources = [
        "outputs/checkpoints/iter3",
        "UCLA-AGI/SPIN-Diffusion-iter1",
        "/a/mine/unet",
        "else/iter3",
        "x/base",
    ]
    assert names_of(sources) == ["iter3", "spin_diffusion_iter1", "mine", "iter3_2", "model_base"]


def test_other_weights_in_a_folder_are_another_checkpoint(tmp_path: Path) -> None:
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / "mine" / "unet").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "unet" / name).write_text("first")
    first = find("mine", None, tmp_path)
    assert first.parameters("mine")["source"].startswith(".weights/mine-")
    assert find("mine", None, tmp_path).parameters("mine") == first.parameters("mine")
    (tmp_path / "mine" / "unet" / "diffusion_pytorch_model.safetensors").write_text("second")
    assert find("mine", None, tmp_path).parameters("mine") != first.parameters("mine")
    assert find("owner/name", "abc", tmp_path).parameters("name") == {
        "source": "owner/name",
        "revision": "abc",
    }
    with pytest.raises(
        ParamsError, match=r"checkpoint must be .* but there is no folder nowhere; correct it\."
    ):
        find("nowhere", None, tmp_path)


def test_prefect_yaml_starts_a_crashed_run_again_but_not_for_ever() -> None:
    from prefect.events.schemas.automations import AutomationCore

    given = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    names = [deployment["name"] for deployment in given["deployments"]]
    automations = {each["name"]: each for each in given["automations"]}
    for each in automations.values():
        assert each["trigger"]["match_related"]["prefect.resource.name"] == names, each["name"]
    crashed = AutomationCore.model_validate(automations[STARTS_AGAIN]).trigger
    assert crashed.match.root["prefect.run-count"] == [str(start) for start in range(1, MAX_STARTS)]
    assert crashed.after == {"prefect.flow-run.Running"}, "what cannot begin is not started again"


def test_no_schedule_is_on_that_nobody_switched_on() -> None:
    given = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    schedules = [schedule for each in given["deployments"] for schedule in each.get("schedules", [])]
    assert schedules
    assert not any(schedule["active"] for schedule in schedules)
