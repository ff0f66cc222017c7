"""The losses against independently written Diffusion-DPO, IPO and SDPO formulas, to 1e-9 in float64.

The fixtures' `hinge`, `ipo` and `diffusers_sd_sigmoid` leave the factor one half out of the logit: they are ours at
twice the beta, and IPO's (margin - 1 / (2 beta))^2 is our `squared` at four times it, divided by (2 beta)^2.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spin.method.functions import pair_loss
from spin.method.guards import error_gradient, loser_scale, scale_gradient
from spin.method.losses import denoising_error, implicit_accuracy, preference_loss
from spin.method.schedule import NoiseSchedule

CASES = (
    "eps_b2000",
    "eps_b5000",
    "tie_ref_equals_pred",
    "saturated",
    "b1_single",
    "tiny_beta",
    "correlated_errors",
    "mixed_acc",
)
CLOSE = {"rel": 1e-9, "abs": 1e-12}


class Case:
    """One case of the fixtures: predictions, target and the errors of both sides."""

    def __init__(self, name: str, case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.beta = float(case["beta"])
        self.variants: dict[str, Any] = case["variants"]
        self.gradients = {variant: tensors[f"{name}.grad.{variant}"] for variant in self.variants}
        self.prediction = tensors[f"{name}.model_pred"].double().requires_grad_()
        self.target = tensors[f"{name}.target"].double()
        self.opponent = denoising_error(tensors[f"{name}.ref_pred"].double(), self.target).chunk(2)

    @property
    def player(self) -> tuple[Tensor, ...]:
        """Errors with gradient, on winners and on losers, each (B,)."""
        return denoising_error(self.prediction, self.target).chunk(2)

    def margin(self) -> Tensor:
        """(B,), with gradient."""
        winners, losers = self.player
        return (self.opponent[0] - winners) - (self.opponent[1] - losers)

    def check(self, variant: str, per_pair: Tensor) -> None:
        """Compare losses, their mean and its gradient."""
        wanted = self.variants[variant]
        assert per_pair.tolist() == pytest.approx(wanted["per_sample_loss"], **CLOSE)
        assert per_pair.mean().item() == pytest.approx(wanted["loss"], **CLOSE)
        (gradient,) = torch.autograd.grad(per_pair.mean(), self.prediction)
        torch.testing.assert_close(gradient, self.gradients[variant], rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def fixtures(shared: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = shared / "fixtures" / "dpo_loss"
    if not folder.is_dir():
        pytest.skip("reads ../shared/fixtures/dpo_loss, which is not here")
    return json.loads((folder / "expected.json").read_text()), load_file(folder / "tensors.safetensors")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, fixtures: tuple[dict[str, Any], dict[str, Tensor]]) -> Case:
    expected, tensors = fixtures
    return Case(request.param, expected["cases"][request.param], tensors)


def test_every_case_of_the_fixtures_is_tested(fixtures: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    assert set(fixtures[0]["cases"]) == set(CASES)


def test_errors_and_margins(case: Case) -> None:
    wanted = case.variants["salesforce"]
    assert torch.cat(case.player).tolist() == pytest.approx(wanted["model_losses"], **CLOSE)
    assert torch.cat(case.opponent).tolist() == pytest.approx(wanted["ref_losses"], **CLOSE)
    inside = 0.5 * case.beta * case.margin()
    assert inside.tolist() == pytest.approx(wanted["inside_term"], **CLOSE)


def test_diffusion_dpo_loss_gradient_and_accuracy(case: Case) -> None:
    wanted = case.variants["salesforce"]
    loss, margin = preference_loss(*case.player, *case.opponent, beta=case.beta)
    assert loss.item() == pytest.approx(wanted["loss"], **CLOSE)
    assert implicit_accuracy(margin).item() == pytest.approx(wanted["implicit_acc_salesforce"])
    ties_half = 0.5 * (implicit_accuracy(margin) + 1.0 - implicit_accuracy(-margin))
    assert ties_half.item() == pytest.approx(wanted["implicit_acc_diffusers"])
    case.check("salesforce", pair_loss(case.margin(), case.beta, "logistic"))


def test_the_other_functions_are_the_peers_up_to_their_beta(case: Case) -> None:
    beta = case.beta
    case.check("diffusers_sd_sigmoid", pair_loss(case.margin(), 2 * beta, "logistic"))
    case.check("diffusers_sd_hinge", pair_loss(case.margin(), 2 * beta, "hinge"))
    case.check("ipo_intended", pair_loss(case.margin(), 4 * beta, "squared") / (2 * beta) ** 2)


@pytest.mark.parametrize("mu", [0.9, 0.2])
def test_the_loser_scale_changes_the_gradient_and_not_the_loss(case: Case, mu: float) -> None:
    variant = f"sdpo_mu{mu}"
    wanted = case.variants[variant]
    ones = torch.ones(len(case.margin()), dtype=torch.float64)
    pairs = zip(case.prediction.chunk(2), case.target.chunk(2), strict=True)
    scale = loser_scale(*(error_gradient(prediction, target, ones) for prediction, target in pairs), mu)
    assert scale.item() == pytest.approx(wanted["loser_scale"], **CLOSE)
    winners, losers = case.player
    loss = preference_loss(winners, scale_gradient(losers, scale), *case.opponent, beta=case.beta).loss
    assert loss.item() == pytest.approx(wanted["loss"], **CLOSE)
    (gradient,) = torch.autograd.grad(loss, case.prediction)
    torch.testing.assert_close(gradient, case.gradients[variant], rtol=1e-9, atol=1e-12)


def test_a_mean_inside_the_sigmoid_would_be_another_loss(case: Case) -> None:
    """A fault that a peer once shipped; the two agree only on a single pair or on equal margins."""
    inside = pair_loss(case.margin().mean(), case.beta, "logistic")
    outside = pair_loss(case.margin(), case.beta, "logistic").mean()
    assert inside <= outside + 1e-12, "Jensen"
    if case.margin().std(correction=0) > 1e-3 / case.beta:
        assert inside < outside


@pytest.mark.parametrize("space", ["e2e_v_prediction", "e2e_v_converted_to_eps"])
def test_a_velocity_network_from_latents_to_loss(
    fixtures: tuple[dict[str, Any], dict[str, Tensor]], space: str
) -> None:
    expected, tensors = fixtures
    wanted = expected[space]
    schedule = NoiseSchedule.from_alphas_cumprod(tensors["e2e.alphas_cumprod_fp64"])
    x_0, eps, timesteps = (
        tensors["e2e.latents"].double(),
        tensors["e2e.noise"].double(),
        tensors["e2e.timesteps"],
    )
    x_t = schedule.add_noise(x_0, eps, timesteps)
    target = schedule.target("v_prediction", x_0, eps, timesteps)
    torch.testing.assert_close(x_t, tensors["e2e.noisy_latents_fp64"], rtol=0, atol=1e-12)
    torch.testing.assert_close(target, tensors["e2e.v_target_fp64"], rtol=0, atol=1e-12)
    player, opponent = tensors["e2e.v_pred"].double(), tensors["e2e.v_ref"].double()
    if space == "e2e_v_converted_to_eps":
        target = eps
        player, opponent = (
            schedule.to_eps("v_prediction", side, x_t, timesteps) for side in (player, opponent)
        )
    loss, margin = preference_loss(
        *denoising_error(player, target).chunk(2),
        *denoising_error(opponent, target).chunk(2),
        beta=wanted["beta"],
    )
    assert loss.item() == pytest.approx(wanted["loss"], **CLOSE)
    assert implicit_accuracy(margin).item() == pytest.approx(wanted["implicit_acc_salesforce"])
    assert denoising_error(player, target).tolist() == pytest.approx(wanted["model_losses"], **CLOSE)
