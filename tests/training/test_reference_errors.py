"""Errors of the reference computed once are those that the updates would compute, and the reference is gone."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import spin.stages.train
from spin.errors import ParamsError
from spin.params.schema import Params
from spin.runtime import meter
from spin.runtime.tensors import save_shard
from spin.stages.train import run_train
from spin.training.batches import Batch, BatchSource, draw_batch
from spin.training.examples import Flips, Rows
from spin.training.loop import Recipe
from spin.training.reference_errors import ERRORS, _read, updates_with_new_draws
from tests.stages.kept import flip
from tests.stages.projects import parameters, raw_parameters
from tests.training.games import tiny_diffusion, training_params
from tests.training.running import LOG_2, LORA, Memory, assert_same, trained
from tests.training.test_recipe import set_of

Curve = list[dict[str, float]]
Keep = Callable[..., Recipe]


def drawn(base: Path, draws: int, objective: dict[str, Any] | None = None, **training: Any) -> Params:
    """The miniature parameters: 4 updates of 4 visit 12 rows once and 4 of them twice."""
    return parameters(base, objective=objective or {}, training={"reference_draws": draws, **training})


def live(params: Params, name: str = "iter1") -> tuple[dict[str, torch.Tensor], Curve]:
    """Trained on the same draws with the reference asked at every visit."""

    def asked(_: Path, recipe: Recipe, *rest: Any) -> Recipe:
        reference = recipe.opponent_of(0)  # the stage empties its list
        return replace(recipe, opponent_of=lambda _: reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.stages.train, "keep_reference_errors", asked)
        return trained(params, name)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "spin, noise and half a batch each": (
        "iter1",
        {"shared_noise": False},
        {"micro_batch_size": 2, "caption_dropout": 0.5},
    ),
    "dpo in bf16": ("dpo", {}, {"precision": "bf16"}),
    "weights, a guard and an adapter": (
        "iter1",
        {"timestep_weighting": "exact", "loser_scale": 0.5},
        {"lora": LORA},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_where_no_draw_comes_again_training_is_the_same_to_the_bit(
    inside: Path, tiny_base: Path, case: str
) -> None:
    name, objective, changes = CASES[case]
    params = drawn(tiny_base, 2, objective, **changes)
    (weights, curve), (wanted, wanted_curve) = trained(params, name), live(params, name)
    assert_same(weights, wanted)
    assert curve == wanted_curve
    assert (curve[0]["loss"], curve[0]["margin"]) == (LOG_2, 0.0)
    assert curve[1]["margin"] != 0.0


def test_a_draw_that_comes_again_meets_its_own_errors_and_the_reference_runs_no_more(
    inside: Path, tiny_base: Path
) -> None:
    params = drawn(tiny_base, 1)
    before = meter.asked.copy()
    _, curve = trained(params)
    asked = meter.asked - before
    _, wanted = live(params)
    for row, other in zip(curve, wanted, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    predictions = [
        sum(rows for ask, rows in asked.items() if ask.trained == learns) for learns in (True, False)
    ]
    assert predictions == [2 * 16, 2 * 12], "2 for each pair and visit, and once 2 for each pair"


def test_the_reference_is_gone_before_the_first_update(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    set_up, train = spin.stages.train.set_up_networks, spin.stages.train.train

    def watched(*given: Any) -> Any:
        networks = set_up(*given)
        made.append(weakref.ref(networks.opponents[0]))
        return networks

    def checked(*given: Any) -> None:
        (opponent,) = made
        assert opponent() is None, "somebody holds it"
        train(*given)

    monkeypatch.setattr(spin.stages.train, "set_up_networks", watched)
    monkeypatch.setattr(spin.stages.train, "train", checked)
    run_train(drawn(tiny_base, 1), "iter1")
    made.clear()
    with pytest.raises(AssertionError, match="somebody holds it"):
        run_train(parameters(tiny_base), "iter1")


def test_a_killed_run_computes_no_error_twice_and_none_of_another_setting(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spin.training.reference_errors.UPDATES_A_SHARD", 1)
    params = drawn(tiny_base, 2)
    unbroken, _ = trained(params)

    class Killed(Memory):
        def predict(self, denoiser: nn.Module, *rest: Any) -> torch.Tensor:
            self.calls += 1
            if self.calls > self.rows:
                raise KeyboardInterrupt
            return self.original(denoiser, *rest)

    def until(calls: int, given: Params) -> int:
        """Train until so many calls of a network; how many there were."""
        with monkeypatch.context() as patch:
            memory = Killed(calls)
            patch.setattr(
                "spin.models.stable_diffusion.StableDiffusion.predict", staticmethod(memory.predict)
            )
            if calls < 100:
                with pytest.raises(KeyboardInterrupt):
                    run_train(given, "iter1")
            else:
                run_train(given, "iter1")
            return memory.calls

    until(3, params)
    assert len(list(Path(".spin/work").glob("*/reference/shard-*"))) == 3
    kept = next(Path(".spin/work").glob("*/reference"))
    flip(kept / "shard-00001/errors.safetensors")
    other = drawn(tiny_base, 1)
    assert until(100, other) == 3 + 4, "of other draws nothing is taken"
    assert until(100, params) == 2 + 4, "the damaged one, the missing one, and the player's"
    (weights,) = Path("outputs/checkpoints/iter1").glob("*/*.safetensors")
    assert_same(load_file(weights), unbroken)


def test_a_reference_that_does_not_fit_in_one_go_is_asked_in_parts_or_refused(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(rows=4)
    monkeypatch.setattr("spin.models.stable_diffusion.StableDiffusion.predict", staticmethod(memory.predict))
    _, curve = trained(drawn(tiny_base, 1, micro_batch_size="auto"))
    assert len(curve) == 4
    with pytest.raises(ParamsError, match=r"training\.micro_batch_size must fit into memory"):
        run_train(drawn(tiny_base, 1), "iter1")


def test_all_of_a_row_but_its_place_is_the_draws(tiny_base: Path, tmp_path: Path) -> None:
    diffusion, rows = tiny_diffusion(tiny_base, tmp_path), 8
    params = training_params(batch_size=6, micro_batch_size=6, caption_dropout=0.5, horizontal_flip=True)
    flipped: list[Flips | None] = []
    plain = set_of(rows)

    def fetch(chosen: Any, flips: Flips | None = None) -> Rows:
        flipped.append(flips)
        return plain.fetch(chosen, None)

    examples = replace(plain, fetch=fetch)
    process = diffusion.noise_schedule
    source = BatchSource(examples, diffusion, process, params, False, 0, "iter1", range(6), draws=2)
    found: dict[tuple[int, int], list[Any]] = {}
    for step in range(8):  # six epochs
        batch, cells = draw_batch(source, step), source.cells(step)
        assert [row for row, _ in cells] == source.rows(step)
        for place, cell in enumerate(cells):
            found.setdefault(cell, []).append(told(batch, flipped[-1], place))
    assert len(found) == 2 * rows
    assert {len(visits) for visits in found.values()} == {3}, "in turn"
    for visits in found.values():
        assert visits[0] == visits[1] == visits[2]
    first = [found[row, draw][0] for row in range(rows) for draw in (0, 1)]
    assert len({tuple(each[:2]) for each in first}) == len(first), "draws of a row differ"
    assert updates_with_new_draws(100, 6, rows, 2) == 3
    assert updates_with_new_draws(2, 6, rows, 2) == 2


def test_a_draw_that_a_last_batch_visits_again_keeps_the_errors_of_its_first_visit(
    tiny_base: Path, tmp_path: Path
) -> None:
    """8 rows with a draw each fill an update of 6 and a third of the next one."""
    diffusion, params = tiny_diffusion(tiny_base, tmp_path), training_params(batch_size=6, micro_batch_size=6)
    process = diffusion.noise_schedule
    source = BatchSource(set_of(8), diffusion, process, params, True, 0, "iter1", range(6), draws=1)
    computed = torch.arange(24.0).reshape(2, 6, 2)
    (tmp_path / "shard-00000").mkdir()
    save_shard(tmp_path / "shard-00000" / f"{ERRORS}.safetensors", {ERRORS: computed}, ERRORS)
    errors_of = _read(tmp_path, 2, source)
    assert torch.equal(errors_of(source.cells(0)), computed[0])
    assert torch.equal(errors_of(source.cells(1))[:2], computed[1, :2])


def told(batch: Batch, flips: Flips | None, place: int) -> list[Any]:
    """All that a batch says of a place."""
    assert batch.gen is not None
    assert flips is not None
    sides = [each[place].flatten().tolist() for side in (batch.real, batch.gen) for each in side]
    return [str(sides[0]), str(sides[4]), sides, int(batch.conditioning["lengths"][place]), flips.real[place]]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "exact", "timestep_weighting": "exact"}, r"null with objective\.kind exact, got 3"),
        ({"reference": "random"}, r"null with objective\.reference random, got 3"),
    ],
)
def test_what_cannot_be_known_beforehand_is_refused(tiny_base: Path, objective: Any, message: str) -> None:
    raw = raw_parameters(tiny_base, objective=objective)
    Params.model_validate(raw)
    raw["training"]["reference_draws"] = 3
    with pytest.raises(ValueError, match=f"training.reference_draws must be {message}"):
        Params.model_validate(raw)
