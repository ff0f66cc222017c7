"""A plan that measures: real steps of the real base, on the machine that it names."""

import json
from pathlib import Path
from typing import Any

import pytest

from spin.cli import main
from spin.params.schema import Params
from spin.rewards.names import EMBEDDED
from spin.stages.data import run_base
from tests.models.tiny import miniature_params, write_params
from tests.training.running import LORA


@pytest.fixture
def raw(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(tiny_base)
    raw["training"]["micro_batch_size"] = "auto"
    raw["scorers"] = {name: raw["scorers"][name] for name in ("aesthetic", "clip", "oracle_psnr")}
    raw["tables"] |= {"average_of": ["aesthetic"]}
    return raw


def planned(raw: dict[str, Any], capsys: pytest.CaptureFixture[str], *options: str) -> str:
    write_params(Path(), raw)
    capsys.readouterr()
    assert main(["plan", "--measure", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "LoRA"])
def test_hours_are_those_of_the_rates_that_were_measured_here(
    raw: dict[str, Any], capsys: pytest.CaptureFixture[str], lora: dict[str, Any] | None
) -> None:
    raw["training"]["lora"] = lora
    run_base(Params.model_validate(raw))
    plan = json.loads(planned(raw, capsys, "--json"))
    rates = {part: rate for part, (rate, _) in plan["rates"]["rates"].items()}
    assert rates.keys() == {part for item in plan["work"] for part in item["parts"]}
    for item in plan["work"]:
        seconds = sum(tflop / rates[part] for part, tflop in item["parts"].items())
        assert plan["hours"][item["name"]] == pytest.approx(seconds / 3600)
    assert all(0 < rate < product for rate, product in plan["rates"]["rates"].values())
    assert plan["rates"]["missing"] == []


def test_the_machine_is_named_and_a_scorer_that_is_not_at_hand(
    raw: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_base(Params.model_validate(raw))
    raw["scorers"]["clip"]["source"] = str(scorer_without_weights(Path("mine")))
    said = planned(raw, capsys)
    assert "measured on" in said
    assert "CPU" in said
    assert "Not at hand, so taken to be as fast as the autoencoder: clip." in said
    assert "assumption" not in said


def scorer_without_weights(folder: Path) -> Path:
    folder.mkdir()
    for file in (EMBEDDED / "clip").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "but outputs/checkpoints/base is not there; run `spin base` first"),
        (["--gpu", "h100"], "--measure must stand without --gpu"),
        (["--utilisation", "0.5"], "--measure must stand without --utilisation"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    raw: dict[str, Any], capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    write_params(Path(), raw)
    assert main(["plan", "--measure", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


def test_another_base_is_not_measured(raw: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_base(Params.model_validate(raw))
    raw["base"]["source"] = "embedded"
    write_params(Path(), raw)
    assert main(["plan", "--measure"]) == 2
    assert "--measure must have the base embedded, but" in capsys.readouterr().err
