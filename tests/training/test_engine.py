"""Properties of the trainer: optimizers, precision, memory, resuming, several processes."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spin.errors import ParamsError
from spin.params.training import IterationParams
from spin.training.precision import store_products_in
from spin.training.setup import reference_of_update
from tests.models.tracing import trace_alone
from tests.stages.projects import parameters
from tests.training.running import LOG_2, assert_same, differ, trained

PLAIN: list[dict[str, torch.Tensor]] = []


def test_adafactor_trains_in_its_own_way(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor]
) -> None:
    adafactor, curve = trained(parameters(tiny_base, training={"optimizer": "adafactor"}))
    assert curve[0]["loss"] == LOG_2
    assert curve[-1]["loss"] != LOG_2
    assert differ(plain, adafactor) > 0


def test_8_bit_adam_without_cuda_is_one_sentence(inside: Path, tiny_base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without CUDA")
    with pytest.raises(
        ParamsError, match=r"training\.optimizer must be adamw or adafactor on the device cpu"
    ):
        trained(parameters(tiny_base, training={"optimizer": "adamw_8bit"}))


def test_fp16_on_a_cpu_is_one_sentence(inside: Path, tiny_base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without CUDA")
    with pytest.raises(ParamsError, match=r"training\.precision must be fp32 or bf16 on a CPU, got fp16"):
        trained(parameters(tiny_base, training={"precision": "fp16"}))


def test_bf16_with_a_lighter_opponent_still_starts_at_log_2_to_the_bit(inside: Path, tiny_base: Path) -> None:
    _, curve = trained(parameters(tiny_base, training={"precision": "bf16"}))
    assert curve[0]["error_real_change"] == 0.0, "the opponent predicts what the player does"
    assert curve[0]["loss"] == LOG_2
    assert curve[-1]["loss"] != LOG_2


def test_a_frozen_network_keeps_its_products_in_half_the_memory_and_its_predictions_to_the_bit() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Linear(6, 6)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)  # norms too: their weights of one would not show a rounding
    lighter = copy.deepcopy(network)
    store_products_in(lighter, torch.bfloat16)
    kept = [parameter.dtype for parameter in lighter.parameters()]
    assert kept == [torch.bfloat16] * 2 + [torch.float32] * 2 + [torch.bfloat16] * 2
    x_t = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(network(x_t), lighter(x_t))


def test_gradient_checkpointing_changes_nothing_but_memory(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor]
) -> None:
    checkpointed, _ = trained(parameters(tiny_base, training={"gradient_checkpointing": True}))
    assert_same(plain, checkpointed)


@pytest.mark.slow
def test_compiling_leaves_the_names_of_the_weights(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = trace_alone(monkeypatch)
    weights, curve = trained(parameters(tiny_base, training={"compile": True}))
    assert len(compiled) == 2 * 4, "the transformer blocks of player and opponent"
    assert curve[0]["loss"] == LOG_2
    assert weights.keys() == plain.keys()
    assert differ(weights, plain) < 1e-5


def test_the_average_is_what_is_saved(inside: Path, tiny_base: Path) -> None:
    start = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    one_step = {"iter1": {"num_steps": 1}}
    last, _ = trained(parameters(tiny_base, iterations=one_step))
    average, _ = trained(parameters(tiny_base, iterations=one_step, training={"ema_decay": 0.75}))
    for name, tensor in start.items():
        torch.testing.assert_close(average[name], 0.75 * tensor + 0.25 * last[name], rtol=0, atol=1e-6)


def test_the_random_reference_is_a_function_of_the_update_and_visits_all() -> None:
    networks = [torch.nn.Identity() for _ in range(3)]
    plan = IterationParams(prev="base", learning_rate=1e-3, num_steps=40, warmup_steps=0, beta=1.0)
    first, again = (reference_of_update(networks, plan, 0, "iter3") for _ in range(2))
    drawn = [first(step) for step in range(40)]
    assert [id(again(step)) for step in range(40)] == [id(network) for network in drawn]
    assert {id(network) for network in drawn} == {id(network) for network in networks}
    other_seed = [reference_of_update(networks, plan, 1, "iter3")(step) for step in range(40)]
    assert [id(network) for network in other_seed] != [id(network) for network in drawn]
