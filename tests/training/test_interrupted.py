"""A training that was cut off, or shared by two processes, ends where an unbroken one does."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

import spin.stages.preview
import spin.stages.train
import spin.training.loop
import spin.training.setup
from spin.cli import main
from spin.runtime.files import read_json
from spin.stages.train import run_train
from tests.models.tiny import write_params
from tests.stages.projects import parameters, raw_parameters
from tests.training.running import LORA, assert_same, differ, launch, trained


@pytest.mark.parametrize(
    "training",
    [{}, {"lora": LORA, "ema_decay": 0.9, "optimizer": "adafactor"}],
    ids=["full", "lora-ema-adafactor"],
)
def test_a_run_interrupted_at_any_update_ends_where_an_unbroken_one_does(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    params = parameters(tiny_base, training=training)
    unbroken, curve = trained(params)
    after = spin.stages.train.AfterUpdate.__call__
    for last in (1, 3):

        def killed(self: Any, report: Any, last: int = last) -> None:
            after(self, report)
            if self.state.step == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(spin.stages.train.AfterUpdate, "__call__", killed)
            with pytest.raises(KeyboardInterrupt):
                run_train(params, "iter1")
        resumed, resumed_curve = trained(params)
        assert_same(unbroken, resumed)
        assert resumed_curve == curve


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIN_TRACKING", "off")
    write_params(inside, raw_parameters(tiny_base, training={"micro_batch_size": "auto"}))
    cost = Path("outputs/cost/train@iter1.json")
    assert main(["train", "--name", "iter1"]) == 0
    tflop = read_json(cost)["tflop"]
    alone, curve = trained(parameters(tiny_base))
    before = set(Path(".spin/work").glob("train-iter1-*"))  # of the tests of trainings that fail
    launch(inside, "train", "--name", "iter1")
    (weights,) = Path("outputs/checkpoints/iter1").glob("*/*.safetensors")
    assert differ(load_file(weights), alone) < 1e-5
    both = pd.read_csv("outputs/curves/iter1.csv")
    assert list(both["step"]) == [row["step"] for row in curve]
    for name in ("loss", "error_real", "error_gen", "grad_norm"):
        assert list(both[name]) == pytest.approx([row[name] for row in curve], rel=1e-3)
    record = read_json(Path("outputs/training/iter1.json"))
    assert (record["processes"], record["micro_batch_size"]) == (2, 2)
    spent = read_json(cost)
    assert (spent["processes"], spent["tflop"]) == (2, pytest.approx(tflop, rel=1e-6)), "that of both"
    left = set(Path(".spin/work").glob("train-iter1-*")) - before
    assert not left, "finished, and nobody writes on"
