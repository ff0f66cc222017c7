"""Properties of training with low-rank adapters: what is frozen, what the reference is, where it starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spin.models.lora import trainable_state
from spin.params.schema import Params
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from spin.training.networks import iterates_up_to, load_networks
from tests.models.adapters import CPU, LORA, move, predict, predicted, walk
from tests.models.tiny import miniature_params, write_params


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """accelerate allows one precision per process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("prev", ["base", "iter1", "iter2"])
def test_player_and_reference_agree_to_the_bit_before_the_first_update(checkpoints: Path, prev: str) -> None:
    sides = load_networks(checkpoints / prev, CPU, LORA)
    assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_a_fresh_adapter_is_the_base_to_the_bit(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "base", CPU, LORA)
    assert torch.equal(predict(sides.player), predicted(checkpoints / "base"))


def test_the_reference_is_the_previous_iterate_and_not_the_base(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA)
    move(sides.player)
    reference = predict(sides.opponents[-1])
    torch.testing.assert_close(reference, predicted(checkpoints / "iter1"), rtol=1e-3, atol=1e-4)
    assert (reference - predicted(checkpoints / "base")).abs().max() > 0.01
    assert (reference - predict(sides.player)).abs().max() > 0.01, (
        "the player moved away, the reference did not"
    )


def test_only_the_adapter_is_trained_and_the_base_is_in_memory_once(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA)
    trained = {name for name, parameter in sides.player.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert sum(each.numel() for each in sides.trainable()) < 0.1 * sum(
        each.numel() for each in sides.player.parameters()
    )
    own = dict(sides.opponents[-1].named_parameters())
    for name, parameter in sides.player.named_parameters():
        assert (own[name].data_ptr() == parameter.data_ptr()) == (name not in trained), name
        assert not own[name].requires_grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_reference_may_run_between_forward_and_backward(checkpoints: Path, checkpointing: bool) -> None:
    def gradients(between: bool) -> list[Tensor]:
        sides = load_networks(checkpoints / "iter1", CPU, LORA)
        if checkpointing:
            sides.player.enable_gradient_checkpointing()  # type: ignore[operator]
        loss = predict(sides.player.train()).square().mean()
        if between:
            with torch.no_grad():
                predict(sides.opponents[-1])
        loss.backward()
        return [parameter.grad for parameter in sides.trainable() if parameter.grad is not None]

    alone, disturbed = gradients(False), gradients(True)
    assert len(alone) == len(disturbed) > 0
    assert all(torch.equal(first, second) for first, second in zip(alone, disturbed, strict=True))
    assert all(each.abs().max() > 0 for each in alone)


def test_a_base_in_half_precision_keeps_adapters_in_fp32(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA, base_dtype=torch.bfloat16)
    assert {each.dtype for each in sides.trainable()} == {torch.float32}
    frozen = {each.dtype for each in sides.player.parameters() if not each.requires_grad}
    assert frozen == {torch.bfloat16}
    assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_the_random_reference_draws_from_the_base_to_the_previous_iterate(checkpoints: Path) -> None:
    assert [each.name for each in iterates_up_to(checkpoints / "iter2")] == ["base", "iter1", "iter2"]
    for lora in (LORA, None):
        sides = load_networks(checkpoints / "iter2", CPU, lora, reference="random")
        for name, opponent in zip(("base", "iter1", "iter2"), sides.opponents, strict=True):
            torch.testing.assert_close(predict(opponent), predicted(checkpoints / name), rtol=1e-3, atol=1e-4)
        assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_training_whole_continues_from_the_fused_adapter(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU)
    assert all(parameter.requires_grad for parameter in sides.player.parameters())
    assert not any("lora" in name for name, _ in sides.player.named_parameters())
    torch.testing.assert_close(predict(sides.player), predict(sides.opponents[-1]), rtol=0, atol=0)
    assert torch.equal(predict(sides.player), predicted(checkpoints / "iter1"))


def test_another_seed_draws_another_adapter_and_the_same_seed_the_same(checkpoints: Path) -> None:
    def drawn(seed: int) -> Tensor:
        player = load_networks(checkpoints / "base", CPU, LORA, seed=seed).player
        return torch.cat([tensor.flatten() for tensor in trainable_state(player).values()])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "reference"), [("bf16", "previous"), ("fp32", "random")])
def test_every_iteration_starts_at_log_2_through_the_stages(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, reference: str
) -> None:
    raw = miniature_params(tiny_base)
    raw["training"] |= {"lora": LORA.model_dump(), "precision": precision, "gradient_checkpointing": True}
    raw["objective"]["reference"] = reference
    for iteration in raw["iterations"].values():
        iteration |= {"learning_rate": 0.05, "num_steps": 2}
    write_params(tmp_path, raw)
    params = Params.model_validate(raw)
    monkeypatch.chdir(tmp_path)
    run_data(params)
    run_base(params)
    run_cache(params)
    for name in ("iter1", "iter2"):
        run_opponents(params, name)
        curve = run_train(params, name)
        if reference == "previous" or name == "iter1":
            assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
            assert curve[0]["error_real_change"] == 0.0
        assert curve[1]["error_real_change"] != 0.0
        assert {path.name for path in walk(Path("outputs/checkpoints") / name)} == {
            "curve.sha256",
            "model.json",
            "pytorch_lora_weights.safetensors",
            "spin.sha256",
        }
