"""TensorBoard and W&B: they hear what MLflow hears, only if asked to, and nothing that they do is heard by the stage."""

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import spin.tracking.others
from spin.cli import main
from spin.params.schema import Params
from spin.tracking.notes import current_run
from spin.tracking.runs import stage_run
from tests.models.tiny import ROOT

STAGE = "train@iter1"


def report(step: int) -> dict[str, float]:
    return {"step": step, "loss": 0.7 - step / 128, "margin": float("nan")}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages do not tell MLflow."""
    monkeypatch.setenv("SPIN_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Heard:
    """A tracker as accelerate's are called, which keeps what it is told."""

    def __init__(self, run: str = "", step: int = 0) -> None:
        self.run, self.first, self.told, self.finished = run, step, [], False
        self.pictures: list[tuple[int, tuple[int, ...]]] = []

    def start(self) -> None:
        pass

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.pictures.append((step, values["previews"].shape))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def heard(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Heard]]:
    """All trackers that are made; pytest stands for the library that one needs."""
    made: list[Heard] = []

    def make(params: Params, run: str, folder: Path, step: int) -> Heard:
        made.append(Heard(run, step))
        return made[-1]

    monkeypatch.setitem(spin.tracking.others.KNOWN, "pytest", make)
    monkeypatch.setenv("SPIN_TRACKERS", "pytest")
    return made


def test_a_tracker_hears_every_update_and_the_previews(heard: list[Heard], params: Params) -> None:
    Image.new("RGB", (8, 4)).save("step-000000.png")
    with stage_run(params, STAGE, Path.cwd()):
        current_run().preview(Path("step-000000.png"))
        for step in (1, 2):
            current_run().update(report(step), step)
    (tracker,) = heard
    assert tracker.told == [(1, {"loss": 0.7 - 1 / 128}), (2, {"loss": 0.7 - 2 / 128})]
    assert tracker.pictures == [(0, (1, 4, 8, 3))]
    assert (tracker.run, tracker.first, tracker.finished) == (STAGE, 0, True)


def test_a_second_training_of_a_stage_is_a_run_of_its_own(heard: list[Heard], params: Params) -> None:
    with stage_run(params, "continual@f5", Path.cwd()):
        for step in (1, 2, 1, 2):
            current_run().update(report(step), step)
    assert [(each.run, len(each.told)) for each in heard] == [("continual@f5", 2), ("continual@f5-2", 2)]


def test_without_the_variable_or_without_updates_there_is_no_run(
    heard: list[Heard], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage_run(params, "data", Path.cwd()):
        pass
    monkeypatch.delenv("SPIN_TRACKERS")
    with stage_run(params, STAGE, Path.cwd()):
        current_run().update(report(1), 1)
    assert heard == []


def test_a_tracker_that_fails_is_a_warning(
    heard: list[Heard], params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("its server has gone")

    monkeypatch.setattr(Heard, "log", fail)
    with stage_run(params, STAGE, Path.cwd()):
        for step in (1, 2, 3):
            current_run().update(report(step), step)
    assert caplog.text.count("pytest was not told all of train@iter1 (its server has gone)") == 1


def test_a_tracker_that_hangs_holds_nothing_up(
    heard: list[Heard], params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(Heard, "start", lambda self: answers.wait())
    monkeypatch.setattr(spin.tracking.others, "CLOSING_SECONDS", 0.05)
    with stage_run(params, STAGE, Path.cwd()):
        for step in range(1, 1000):
            current_run().update(report(step), step)
    assert "no answer in 0.05 s" in caplog.text
    assert not heard[0].told
    answers.set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "SPIN_TRACKERS must name some of tensorboard, wandb, got tensorbord; correct it"),
        ("nowhere", "SPIN_TRACKERS names nowhere, which must be installed, but is not; pip install"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_any_work(
    name: str, message: str, alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "nowhere":
        monkeypatch.setitem(spin.tracking.others.KNOWN, name, lambda *_: Heard())
    monkeypatch.setenv("SPIN_TRACKERS", name)
    assert main(["data", "--params", str(ROOT / "profiles" / "toy.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_tensorboard_has_the_curve_and_a_killed_run_goes_on_in_it(
    alone: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("needs tensorboard, an extra that the lock leaves out")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SPIN_TRACKERS", "tensorboard")
    Image.new("RGB", (8, 4)).save("step.png")
    for steps in ((1, 2, 3), (3, 4)):  # killed after 3, whose state was not kept
        with stage_run(params, STAGE, alone):
            for step in steps:
                current_run().update(report(step), step)
            current_run().preview(Path("step.png"))
    (place,) = {path.parent for path in alone.rglob("events.out.tfevents.*")}
    assert place.parent.parent == alone / "outputs" / "trackers" / "tensorboard"
    events = EventAccumulator(str(place))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"], "NaN is left out"
    told = [(each.step, each.value) for each in events.Scalars("loss")]
    assert told == [(step, pytest.approx(0.7 - step / 128)) for step in (1, 2, 3, 4)]
    assert events.Tags()["images"] == ["previews/0"] or events.Tags()["images"] == ["previews"]


def test_wandb_offline_keeps_a_run(
    alone: Path, params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("needs wandb, an extra that the lock leaves out")
    monkeypatch.setenv("SPIN_TRACKERS", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with stage_run(params, STAGE, alone):
        for step in (1, 2, 3):
            current_run().update(report(step), step)
    assert "was not told" not in caplog.text
    (run,) = (alone / "outputs" / "trackers").rglob("run-*.wandb")
    assert run.stat().st_size > 0
