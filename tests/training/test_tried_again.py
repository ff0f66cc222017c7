"""Memory that runs out and numbers that overflow cost time, never a row or an update."""

from pathlib import Path
from typing import Any

import pytest
import torch

import spin.stages.preview
import spin.stages.train
import spin.training.loop
import spin.training.setup
from spin.errors import NonFiniteError, ParamsError
from spin.models.stable_diffusion import StableDiffusion
from spin.runtime.files import read_json
from spin.training.networks import Networks
from tests.stages.projects import parameters
from tests.training.running import Memory, Scaled, assert_same, differ, trained


def test_auto_finds_the_micro_batch_that_fits_and_keeps_the_batch(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_ones, curve = trained(parameters(tiny_base, training={"micro_batch_size": 1}))
    memory = Memory(rows=3)  # a pair is two rows
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(memory.predict))
    found, found_curve = trained(parameters(tiny_base, training={"micro_batch_size": "auto"}))
    assert_same(found, by_ones)
    assert found_curve == curve
    assert read_json(Path("outputs/training/iter1.json"))["micro_batch_size"] == 1
    assert memory.seen[:2] == [8, 4], "from the whole batch down by halves"
    assert set(memory.seen[3:]) == {2}, "what was found stays"


def test_memory_that_runs_out_in_the_middle_of_an_update_counts_nothing_twice(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_twos, _ = trained(parameters(tiny_base, training={"micro_batch_size": 2}))
    by_ones, _ = trained(parameters(tiny_base, training={"micro_batch_size": 1}))
    memory = Memory(rows=2, from_call=3)  # auto starts at 4 pairs; the first update goes through one call
    monkeypatch.setattr(
        spin.training.setup.MicroBatch, "of", lambda *_: spin.training.loop.MicroBatch(2, True)
    )
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(memory.predict))
    found, _ = trained(parameters(tiny_base, training={"micro_batch_size": "auto"}))
    assert memory.seen[:4] == [4] * 4, "two calls of the first half went well and left a gradient"
    assert_same(found, by_ones)
    assert differ(found, by_twos) < 1e-4


def test_without_auto_running_out_of_memory_is_one_sentence(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(Memory(rows=2).predict))
    sentence = r"training\.micro_batch_size must fit into memory, but it ran out with 4 at a time; lower it"
    with pytest.raises(ParamsError, match=sentence):
        trained(parameters(tiny_base))


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**10, 0), (2.0**127, 3)])
def test_an_overflowing_update_is_tried_again_at_a_lower_scale(
    inside: Path,
    tiny_base: Path,
    plain: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
    overflows: int,
) -> None:
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(scale))
    scaled, scaled_curve = trained(parameters(tiny_base))
    record = read_json(Path("outputs/training/iter1.json"))
    assert record["overflows"] >= overflows
    assert (record["overflows"] > 0) == (overflows > 0)
    assert [row["step"] for row in scaled_curve] == [1, 2, 3, 4], "no update is lost"
    assert differ(plain, scaled) < 1e-5


def test_an_update_that_a_fused_optimizer_skips_is_tried_again_too(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    adamw = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *given, **named: adamw(*given, **named | {"fused": True})
    )
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(2.0**127))
    scaled, curve = trained(parameters(tiny_base))
    assert read_json(Path("outputs/training/iter1.json"))["overflows"] >= 3
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert differ(plain, scaled) < 1e-5


def test_a_gradient_that_overflows_at_every_scale_stops_the_training(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(2.0**10))
    hook = torch.nn.Parameter.register_hook

    def poisoned(*arguments: Any, **named: Any) -> Networks:
        networks = make(*arguments, **named)
        hook(networks.trainable()[0], lambda grad: grad * float("inf"))
        return networks

    make = spin.training.setup.load_networks
    monkeypatch.setattr(spin.training.setup, "load_networks", poisoned)
    with pytest.raises(NonFiniteError, match="update 1 overflowed 20 times; it was not applied"):
        trained(parameters(tiny_base))
