"""What a stage cost is counted, kept over a kill, summed over processes, told, and no part of any output."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spin.cli import main
from spin.evaluation.report import COSTS_HERE, COSTS_PLACE
from spin.params.schema import load_params
from spin.runtime import meter
from spin.runtime.files import sha256_tree
from spin.stages import cost
from spin.stages.cost import Clock
from spin.stages.cost_shown import cells, write_shown
from spin.stages.spent import Spent
from spin.stages.stage import Item
from spin.stages.table import STAGES
from spin.tracking.notes import StageRun
from tests.models.tiny import miniature_params, write_params
from tests.stages.projects import raw_parameters
from tests.training.running import LORA


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch, tiny_base: Path, inside: Path) -> None:
    monkeypatch.setenv("SPIN_TRACKING", "off")
    write_params(inside, miniature_params(tiny_base))


def cost_of(stage: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(Path(f"outputs/cost/{stage}.json").read_text())
    return told


def planned(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """TFLOP of the plan by the names of its work."""
    capsys.readouterr()
    assert main(["plan", "--json"]) == 0
    return {each["name"]: each["tflop"] for each in json.loads(capsys.readouterr().out)["work"]}


@pytest.mark.parametrize("changes", [{}, {"lora": LORA}, {"reference_draws": 1}], ids=str)
def test_training_and_drawing_cost_what_the_plan_says(
    inside: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    raw = raw_parameters(tiny_base)
    raw["training"] |= changes
    write_params(inside, raw)
    for command in (
        ["opponents", "--name", "iter1"],
        ["train", "--name", "iter1"],
        ["train", "--name", "sft"],
    ):
        assert main(command) == 0
    plan = planned(capsys)
    assert cost_of("train@iter1")["tflop"] == pytest.approx(plan["train iter1"], rel=1e-3)
    assert cost_of("baseline@sft")["tflop"] == pytest.approx(plan["train sft"], rel=1e-3)
    iterations = len(load_params(Path("params.yaml")).iterations)
    assert iterations * cost_of("opponents@iter1")["tflop"] == pytest.approx(plan["draw opponents"], rel=1e-3)


def test_what_is_recorded_of_a_cpu(inside: Path) -> None:
    assert main(["train", "--name", "iter1"]) == 0
    told = cost_of("train@iter1")
    assert (told["precision"], told["processes"]) == ("fp32", 1)
    assert "CPU" in told["device"]
    assert told["mfu"] == pytest.approx(
        told["tflop"] / told["device_seconds"] / told["product_tflops"], rel=0.01
    )
    assert 0 < told["mfu"] < 1
    assert told["peak_bytes"] > 2**27, "PyTorch alone"
    assert not {"joules", "not_counted"} & told.keys(), "what is not known is absent, never zero"


def test_encoding_drawing_and_scoring_are_recorded_too(
    inside: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["cache"], ["prompt-set", "--name", "test"]):
        assert main(command) == 0
    assert main(["generate", "--name", "base"]) == main(["score", "--name", "base"]) == 0
    plan, models = planned(capsys), 5
    assert models * cost_of("generate@test-base")["tflop"] == pytest.approx(
        plan["draw evaluation images"], rel=0.01
    ), "and a little for the text encoder"
    scored = sum(tflop for name, tflop in plan.items() if name.startswith("score by"))
    assert (models + 1) * cost_of("score@test-base")["tflop"] == pytest.approx(scored, rel=1e-6)
    assert cost_of("cache")["tflop"] == 0, "its shards are kept from the first time"
    assert not (inside / "outputs/cost/prompt_set@test.json").exists(), "it works on no device"


def test_a_killed_run_and_the_one_that_goes_on_report_all_that_was_spent(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "--name", "iter1"]) == 0
    unbroken, before = cost_of("train@iter1"), sha256_tree(inside / "outputs/checkpoints/iter1")

    def killed(self: Any, report: dict[str, float]) -> None:
        done(self, report)
        if report["step"] == 2:
            time.sleep(0.5)  # until it is noted
            raise KeyboardInterrupt

    done = cost_of_update()
    with monkeypatch.context() as patch:
        patch.setattr(cost, "SECONDS_BETWEEN_NOTES", 0.02)
        patch.setattr("spin.stages.callbacks.AfterUpdate.__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["train", "--name", "iter1"])
    (noted,) = inside.glob(".spin/work/train-iter1-*/spent.json")
    spent = json.loads(noted.read_text())
    assert cost_of("train@iter1") == unbroken, "nothing is reported before the stage has ended"
    assert main(["train", "--name", "iter1"]) == 0
    both = cost_of("train@iter1")
    assert spent["device_seconds"] > 0.5
    assert both["device_seconds"] > spent["device_seconds"] + 0.05
    assert both["tflop"] == pytest.approx(unbroken["tflop"], rel=1e-6), (
        "no update was lost, so none done twice"
    )
    assert sha256_tree(inside / "outputs/checkpoints/iter1") == before
    assert not list(inside.glob(".spin/work/train-iter1-*"))


def cost_of_update() -> Any:
    from spin.stages.callbacks import AfterUpdate

    return AfterUpdate.__call__


def test_a_stage_that_fails_before_it_has_done_anything_keeps_nothing(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        time.sleep(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(cost, "SECONDS_BETWEEN_NOTES", 0.02)
    monkeypatch.setattr("spin.stages.train.run_training", fails)
    with pytest.raises(KeyboardInterrupt):
        main(["train", "--name", "iter1"])
    assert not list(inside.glob(".spin/work/train-iter1-*"))


def test_a_network_that_is_nothing_but_products_uses_most_of_the_device() -> None:
    clock = Clock("fp32")
    layer, rows = nn.Linear(512, 512, bias=False), torch.rand(512, 512)
    passes = 0
    with torch.inference_mode():
        while clock.now().device_seconds < 0.3:
            layer(rows)
            passes += 1
    clock.stop()
    share = passes * 2 * 512**3 / clock.now().attainable
    assert 0.2 < share < 1.2


def test_mlflow_is_told_and_the_page_shows_it(inside: Path) -> None:
    assert main(["train", "--name", "iter1"]) == 0
    run = StageRun()
    STAGES["train"].tell(run, load_params(Path("params.yaml")), Item("iter1"))
    told = {name: value for name, value, _ in run.child.metrics if name.startswith("cost.")}
    assert told.keys() == {f"cost.{key}" for key in cost_of("train@iter1")} - {
        "cost.device",
        "cost.precision",
    }
    page = inside / "outputs/report/report.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(before := f"<main></main>{COSTS_PLACE}<p>")
    write_shown()
    shown = (inside / "outputs/cost/report.html").read_text()
    start, end = before.split("{}")
    columns = json.loads(shown.removeprefix(start).removesuffix(end))
    assert len(columns["iter1"]) == len(COSTS_HERE)
    assert page.read_text() == before, "the output of DVC stays as it is"
    page.unlink()


def test_the_page_sums_up_opponents_and_training_and_shows_no_energy_that_it_does_not_know() -> None:
    drawn = {"device_seconds": 3600.0, "tflop": 30.0, "mfu": 0.1, "peak_bytes": 2**30, "joules": 3600.0}
    trained = {"device_seconds": 3600.0, "tflop": 60.0, "mfu": 0.3, "peak_bytes": 2**31, "joules": 7200.0}
    texts = ["2.00 h", "90", "18%", "2.00 GiB", "3 Wh"]
    assert [text for _, text in cells([drawn, trained])] == texts
    del drawn["joules"]
    assert [text for _, text in cells([drawn, trained])] == [*texts[:-1], ""]


def test_a_prediction_on_the_meta_device_is_not_work() -> None:
    before = meter.asked.copy()
    meter.count_prediction(nn.Identity(), torch.empty(2, 4, 8, 8, device="meta"), 16)
    assert meter.asked == before


def test_no_stage_depends_on_how_its_cost_is_recorded() -> None:
    from spin.runtime.code import code_of

    for stage in STAGES.values():
        reached = code_of(stage.run)
        assert not {"spin.stages.cost", "spin.runtime.gauges", "spin.stages.spent"} & reached.keys()


def test_a_full_disk_holds_up_no_stage_and_no_later_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(self: Spent, folder: Path) -> None:
        calls.append(folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spent, "keep", full)
    monkeypatch.setattr(cost, "SECONDS_BETWEEN_NOTES", 0.01)
    clock = Clock("fp32")
    with meter.keeping(tmp_path):
        deadline = time.monotonic() + 5
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    clock.stop()
    assert len(calls) >= 3


def test_what_an_earlier_run_cost_is_not_told_of_one_whose_cost_is_not_known(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = inside / "outputs/cost/train@iter1.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text('{"device_seconds": 7.0}')
    monkeypatch.setattr(Clock, "described", lambda *_: 1 / 0)
    assert main(["train", "--name", "iter1"]) == 0
    assert not record.exists()
