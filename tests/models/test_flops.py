"""What a training update costs by the formula is what PyTorch counts on the real networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spin.models.checkpoint import load_model
from spin.models.flops import NetworkCost, measure_networks
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.lora import add_adapter, frozen_twin
from spin.params.training import LoraParams
from spin.runtime import meter
from spin.runtime.flops import TERA
from spin.training.steps import Objective, micro_step
from tests.models.bases import base_params, record_base
from tests.training.stepping import PROMPTS, encoded, make_batch, objective

LORA = LoraParams(rank=2, alpha=2.0, targets=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture(scope="module")
def checkpoint(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_base(tmp_path_factory.mktemp("flops") / "base", base_params(tiny_base))


def cost_of(diffusion: LatentDiffusion, lora: LoraParams | None) -> NetworkCost:
    networks: Any = diffusion
    config = {**networks.denoiser.config, "_class_name": type(networks.denoiser).__name__}
    tokens = encoded(diffusion, PROMPTS)["encoder_hidden_states"].shape[1]
    return measure_networks(config, dict(networks.vae.config), 32, 4, False, tokens, lora)


def counted(run: Callable[[], object]) -> float:
    """TFLOP of `run`, backward passes included, by PyTorch's counter; attention keeps what its backward pass needs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() / TERA


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "LoRA"])
@pytest.mark.parametrize("kind", ["SPIN", "DPO", "SFT"])
def test_an_update_costs_what_the_formula_says(kind: str, lora: LoraParams | None, checkpoint: Path) -> None:
    """SPIN and DPO: four forwards and two backwards a pair; fine-tuning that is measured: two forwards, one backward."""
    diffusion = load_model(checkpoint)
    player: nn.Module = diffusion.denoiser
    if lora is not None:
        add_adapter(player, lora, 0)
    opponent = frozen_twin(player) if lora is not None else load_model(checkpoint).denoiser
    batch, minimized = make_batch(diffusion), objective(diffusion)
    if kind == "SFT":
        batch, minimized = batch._replace(gen=None), Objective(None)
    if kind == "DPO":
        minimized = Objective(20.0)
    cost, images = cost_of(diffusion, lora), 3 if kind == "SFT" else 6

    def backward(loss: Tensor, last: bool) -> None:
        torch.autograd.backward(loss)

    before = meter.asked.copy()
    player.train().requires_grad_(lora is None)
    if lora is not None:
        for name, parameter in player.named_parameters():
            parameter.requires_grad_("lora" in name)
    opponent.requires_grad_(False)
    truth = counted(lambda: micro_step(diffusion.predict, player, opponent, batch, minimized, backward))
    formula = images * (2 * cost.adapted + cost.backward)
    assert formula == pytest.approx(truth, rel=1e-3)

    # The meter saw as many.
    asked = meter.asked - before
    assert {ask.trained: rows for ask, rows in asked.items()} == {True: images, False: images}
    assert {ask.adapted for ask in asked} == {lora is not None}


def test_frozen_layers_cost_no_gradient_of_their_weights(checkpoint: Path) -> None:
    diffusion = load_model(checkpoint)
    whole, adapted = cost_of(diffusion, None), cost_of(diffusion, LORA)
    assert whole.backward == pytest.approx(2 * whole.forward, rel=0.1)
    assert adapted.backward < 0.75 * whole.backward
    assert adapted.activations < whole.activations


def test_a_network_of_one_layer_costs_what_a_hand_counts() -> None:
    from spin.runtime.flops import tflop_both_ways, tflop_of

    with torch.device("meta"):
        layer, rows = nn.Linear(30, 20), torch.empty(7, 30)
    assert tflop_of(lambda: layer(rows)) * TERA == 2 * 7 * 30 * 20
    assert tflop_both_ways(lambda: layer(rows)) * TERA == 4 * 7 * 30 * 20, "its input needs no gradient"


def test_an_adapter_is_seen_through_the_wrapper_that_averages_gradients() -> None:
    network = nn.Linear(2, 2)
    network.peft_config = {"default": LORA}  # type: ignore[assignment]
    wrapped = nn.Module()
    wrapped.module = network
    before = meter.asked.copy()
    meter.count_prediction(wrapped, torch.zeros(3, 4, 8, 8), 77)
    assert meter.asked - before == {meter.Ask("denoiser", 8, 77, False, True): 3}


def test_a_trial_is_not_counted() -> None:
    before = meter.asked.copy()
    with meter.uncounted():
        meter.count(5, "encoder", 32)
    assert meter.asked == before
