"""What params.yaml must not hold, and the sentence it gets."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spin.cli import main
from spin.errors import ParamsError
from spin.params.experimental import experimental_in
from spin.params.schema import load_params

ROOT = Path(__file__).resolve().parents[2]
Raw = dict[str, Any]


@pytest.fixture
def raw() -> Raw:
    loaded: Raw = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text())
    return copy.deepcopy(loaded)


def sentence(raw: Raw, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.name)
def test_every_profile_is_valid(profile: Path) -> None:
    load_params(profile)


def test_the_parameters_in_force_are_the_embedded_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles" / "toy.yaml").read_text()


def set_at(*path: str, value: Any) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            set_at("training", "batch_sizes", value=3),
            "unknown key training.batch_sizes; did you mean training.batch_size?",
        ),
        (
            set_at("iterations", "iter1", "betta", value=3.0),
            "unknown key iterations.iter1.betta; did you mean iterations.iter1.beta?",
        ),
        (
            set_at("iterations", "iter1", "learning_rate", value="0.01"),
            "iterations.iter1.learning_rate must be a number, got the text '0.01'; write it without quotes.",
        ),
        (
            set_at("iterations", "iter2", "beta", value=0.0),
            "iterations.iter2.beta must be > 0.0, got 0.0; choose a value in that range.",
        ),
        (
            set_at("baselines", "dpo", "beta", value=-1.0),
            "baselines.dpo.beta must be > 0.0, got -1.0; choose a value in that range.",
        ),
        (
            set_at("iterations", "iter2", "prev", value="iter9"),
            "iterations.iter2.prev must be one of base, iter1, iter2, iter3, got iter9; correct the name.",
        ),
        (
            set_at("iterations", "iter1", "prev", value="iter3"),
            "iterations.iter1.prev must lead back to base, got the circle iter1 -> iter3 -> iter2 -> iter1; break it.",
        ),
        (
            set_at("evaluate", "models", value=["base"]),
            "evaluate.models must name base, sft, dpo, iter1, iter2, iter3, got base.",
        ),
        (
            set_at("tables", "over", value=["gpt"]),
            "tables.over must name some of base, sft, dpo, iter1, iter2, iter3, got gpt; correct the name.",
        ),
        (
            set_at("evaluate", "scheduler", value="euler2"),
            "evaluate.scheduler must be one of 'ddim', 'ddpm', 'pndm', 'euler' or 'dpmsolver++', got 'euler2'; "
            "choose one of them.",
        ),
        (
            set_at("training", "micro_batch_size", value=5),
            "training.batch_size must be a multiple of micro_batch_size, got 32 and 5.",
        ),
        (
            set_at("data", "max_severity", value=1.5),
            "data.max_severity must be <= 1.0, got 1.5; choose a value in that range.",
        ),
        (
            set_at("resolution", value=64),
            "resolution must be 32 with data.kind toy, got 64; that world is 32 pixels wide.",
        ),
        (
            set_at("training", "adam_betas", value=[0.9, 1.5]),
            "training.adam_betas.1 must be < 1.0, got 1.5; choose a value in that range.",
        ),
        (
            set_at("training", "batch_size", value=None),
            "training.batch_size must be a whole number, got nothing (null); write a value.",
        ),
    ],
)
def test_a_breach_is_one_sentence(
    change: Callable[[Raw], None], expected: str, raw: Raw, tmp_path: Path
) -> None:
    change(raw)
    assert sentence(raw, tmp_path) == expected


def test_a_missing_key_is_named(raw: Raw, tmp_path: Path) -> None:
    del raw["opponents"]["guidance_scale"]
    assert sentence(raw, tmp_path).startswith("opponents.guidance_scale must be given, found nothing")


def test_a_prompt_set_must_say_how_many_images_and_null_is_what_evaluate_says(
    raw: Raw, tmp_path: Path
) -> None:
    params = load_params(ROOT / "profiles" / "toy.yaml")
    assert params.evaluate_on("test") == params.evaluate
    assert params.evaluate_on("val") == params.evaluate.model_copy(update={"images_per_prompt": 2})
    raw["prompt_sets"]["val"]["images_per_prompt"] = 0
    assert sentence(raw, tmp_path).startswith("prompt_sets.val.images_per_prompt must be > 0, got 0")
    del raw["prompt_sets"]["val"]["images_per_prompt"]
    assert sentence(raw, tmp_path) == (
        "prompt_sets.val.images_per_prompt must be given, found nothing; copy it from the file in profiles/ that is "
        "nearest to yours."
    )


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml must"):
        load_params(path)


def test_the_command_line_prints_the_sentence_and_exits_with_2(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw["iterations"]["iter1"]["beta"] = -1.0
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert main(["train", "--name", "iter1", "--params", str(path)]) == 2
    assert (
        capsys.readouterr().err
        == f"spin: {path}: iterations.iter1.beta must be > 0.0, got -1.0; choose a value in that range.\n"
    )


def test_a_missing_parameter_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--params", str(tmp_path / "none.yaml")]) == 2
    assert "copy one of profiles/ to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["reference", "--name", "iter1"], "--name must be one of clean, got iter1"),
        (["score", "--name", "nobody"], "--name must be one of base, sft, dpo, iter1, iter2, iter3, clean"),
        (["generate", "--name", "clean"], "--name must be one of base, sft, dpo, iter1, iter2, iter3, got"),
        (["tables", "--prompts", "parti"], "--prompts must be one of test, val, got parti"),
    ],
)
def test_a_name_of_another_kind_is_refused_before_anything_is_written(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    assert main([*command, "--params", str(ROOT / "profiles" / "toy.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_nobody_measured_is_named_wherever_it_stands(raw: Raw, tmp_path: Path) -> None:
    def experimental() -> list[str]:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
        return experimental_in(load_params(tmp_path / "params.yaml"))

    assert experimental() == []
    raw["objective"]["function"] = "hinge"
    raw["baselines"]["sft"]["min_snr_gamma"] = 5.0
    assert experimental() == ["objective.function: hinge", "baselines.min_snr_gamma: 5.0"]


@pytest.mark.parametrize(
    ("resolution", "buckets", "expected"),
    [
        (
            32,
            {"step": 64, "max_ratio": 2.0},
            "resolution must be a multiple of data.aspect_buckets.step, 64, got 32; the",
        ),
        (
            512,
            {"step": 12, "max_ratio": 2.0},
            "data.aspect_buckets.step must be a multiple of 8, got 12; the",
        ),
        (
            512,
            {"step": 64, "max_ratio": 1.2},
            "data.aspect_buckets must give a size besides the square, but no other",
        ),
        (
            512,
            {"step": 512, "max_ratio": 9.0},
            "data.aspect_buckets must give a size besides the square, but no other",
        ),
        (
            512,
            {"step": 64, "max_ratio": 0.5},
            "data.aspect_buckets.max_ratio must be >= 1.0, got 0.5; choose",
        ),
        (512, {"step": 64}, "data.aspect_buckets.max_ratio must be given, found nothing; copy"),
        (512, {"steps": 64, "max_ratio": 2.0}, "unknown key data.aspect_buckets.steps; remove it."),
        (512, "sdxl", "data.aspect_buckets must be a mapping, got 'sdxl' (str); correct it"),
    ],
)
def test_buckets_without_a_usable_size_are_one_sentence(
    resolution: int, buckets: Any, expected: str, tmp_path: Path
) -> None:
    raw: Raw = yaml.safe_load((ROOT / "profiles" / "sdxl-lora.yaml").read_text())
    raw["resolution"] = resolution
    raw["data"]["aspect_buckets"] = buckets
    assert expected in sentence(raw, tmp_path)


def test_kept_errors_of_the_reference_are_for_images_of_one_shape(tmp_path: Path) -> None:
    raw: Raw = yaml.safe_load((ROOT / "profiles" / "sdxl-lora.yaml").read_text())
    raw["training"]["reference_draws"] = 2
    assert "training.reference_draws must be null with data.aspect_buckets, got 2;" in sentence(raw, tmp_path)
