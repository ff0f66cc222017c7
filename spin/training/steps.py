"""What one micro-batch does: the errors of both sides on it, the loss and its gradient, and what to report of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spin.method.exact import PredictEps, draw_trajectories, exact_gradient
from spin.method.functions import FunctionName
from spin.method.guards import error_gradient, loser_scale, opponent_sign, scale_gradient
from spin.method.losses import PreferenceLoss, denoising_error, implicit_accuracy, preference_loss, sft_loss
from spin.method.schedule import NoiseSchedule
from spin.models.conditioning import Conditioning, repeat_rows
from spin.params.objective import ObjectiveParams
from spin.training.batches import Batch
from spin.training.chains import ChainBatch

Predict = Callable[[nn.Module, Tensor, Tensor, Conditioning], Tensor]
"""A family's `predict`: (denoiser, x_t, times, conditioning) -> prediction."""

Backward = Callable[[Tensor, bool], None]
"""Adds the gradient of a scalar to the player's, and is told whether it is the micro-batch's last.

The trainer divides by the number of micro-batches in it."""

Report = dict[str, float]
"""What the curve tells of an update."""
Measured = dict[str, Tensor]
"""The same of one micro-batch, each () on its device: to read it there would make the host wait."""


@dataclass(frozen=True)
class Objective:
    """What the player minimizes. As it stands: Diffusion-DPO's and SPIN's common loss, or SFT without a beta."""

    beta: float | None
    """Weight of the margin; None means supervised fine-tuning."""
    function: FunctionName = "logistic"
    weights: Tensor | None = None
    """(T,) float64: weight of the errors at each timestep, of a mean of one but for min-SNR's; None for constant."""
    loser_scale: float | None = None
    """SDPO's mu, or None to leave the gradient from generated images alone."""
    sign_rule: bool = False
    """SePPO's: an opponent that does better on the real image attracts with its own."""

    @classmethod
    def of(
        cls, objective: ObjectiveParams, beta: float, schedule: NoiseSchedule, prediction_type: str
    ) -> "Objective":
        """The objective of a self-play iteration. Raises `ParamsError` where the exact weights are infinite."""
        weighted = objective.kind == "approximate" and objective.timestep_weighting == "exact"
        return cls(
            beta,
            objective.function,
            schedule.timestep_weights(prediction_type) if weighted else None,
            objective.loser_scale,
            objective.reference == "random",
        )

    def weights_at(self, timesteps: Tensor) -> Tensor:
        """Weights (B,) fp32 at timesteps (B,)."""
        if self.weights is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        return self.weights.float().to(timesteps.device)[
            timesteps
        ]  # rounded here: some devices have no float64


class Errors(NamedTuple):
    """Denoising errors of one model on a batch, each (B,) fp32."""

    real: Tensor
    gen: Tensor | None
    prediction: Tensor | None
    """(B, C, h, w), or (2B, C, h, w) with the real images first, as the network made it; None for errors computed before."""


def denoise(predict: Predict, denoiser: nn.Module, batch: Batch) -> Errors:
    """Measure a model's errors on a batch; real and generated images go through the network together."""
    real, gen = batch.real, batch.gen
    if gen is None:
        prediction = predict(denoiser, real.x_t, real.times, batch.conditioning)
        return Errors(denoising_error(prediction, real.target), None, prediction)

    # Both members in one forward pass.
    x_t = torch.cat([real.x_t, gen.x_t])  # (2B, C, h, w)
    times = torch.cat([real.times, gen.times])
    prediction = predict(denoiser, x_t, times, repeat_rows(batch.conditioning, 2))
    error_real, error_gen = denoising_error(prediction, torch.cat([real.target, gen.target])).chunk(2)
    return Errors(error_real, error_gen, prediction)


def micro_step(
    predict: Predict,
    player: nn.Module,
    opponent: nn.Module | None,
    batch: Batch | ChainBatch,
    objective: Objective,
    backward: Backward,
) -> Measured:
    """Add the gradient of one micro-batch through `backward`, and tell what to report of it.

    Without an opponent its errors are those that the batch brings. Supervised fine-tuning can do without them; then no
    change against it is reported.
    """
    if isinstance(batch, ChainBatch):
        assert opponent is not None
        return _exact_step(predict, player, opponent, batch, objective, backward)

    # Measure both sides on the same noise.
    opponent_errors = None
    if opponent is not None:
        with torch.no_grad():
            opponent_errors = denoise(predict, opponent, batch)
    elif batch.reference is not None:
        real, gen = batch.reference.unbind(1)
        opponent_errors = Errors(real, gen, None)
    player_errors = denoise(predict, player, batch)
    report = {"error_real": player_errors.real.mean()}
    if opponent_errors is not None:
        report["error_real_change"] = (player_errors.real - opponent_errors.real).mean()

    # The loss: of single images, or of pairs against the opponent.
    if objective.beta is None:
        loss = sft_loss(objective.weights_at(batch.real.timesteps) * player_errors.real)
    else:
        assert opponent_errors is not None
        assert opponent_errors.gen is not None
        assert player_errors.gen is not None
        (loss, margin), extra = _pair_loss(player_errors, opponent_errors, batch, objective)
        report |= {
            "error_gen": player_errors.gen.mean(),
            "error_gen_change": (player_errors.gen - opponent_errors.gen).mean(),
            "implicit_accuracy": implicit_accuracy(margin),
            "margin": margin.mean(),
            **extra,
        }

    backward(loss, True)
    return {name: value.detach() for name, value in {"loss": loss, **report}.items()}


def _pair_loss(
    player: Errors, opponent: Errors, batch: Batch, objective: Objective
) -> tuple[PreferenceLoss, Measured]:
    """The preference loss under the objective's weights, sign and guard, and what these add to the report."""
    assert batch.gen is not None
    assert player.gen is not None
    assert opponent.gen is not None
    assert objective.beta is not None

    # Weights of the timesteps, with SePPO's sign on the opponent's images.
    weight_real, weight_gen = (objective.weights_at(side.timesteps) for side in (batch.real, batch.gen))
    extra: Measured = {}
    if objective.sign_rule:
        sign = opponent_sign(player.real, opponent.real)
        weight_gen = weight_gen * sign
        extra["repelled"] = (sign > 0).float().mean()

    # SDPO's scale on the gradient from the opponent's images.
    player_gen = weight_gen * player.gen
    if objective.loser_scale is not None:
        assert player.prediction is not None
        prediction_real, prediction_gen = player.prediction.chunk(2)
        gradient_real = error_gradient(prediction_real, batch.real.target, weight_real)
        gradient_gen = error_gradient(prediction_gen, batch.gen.target, weight_gen)
        scale = loser_scale(gradient_real, gradient_gen, objective.loser_scale)
        player_gen = scale_gradient(player_gen, scale)
        extra["loser_scale"] = scale

    # The loss from four weighted errors.
    loss = preference_loss(
        weight_real * player.real,
        player_gen,
        weight_real * opponent.real,
        weight_gen * opponent.gen,
        objective.beta,
        objective.function,
    )
    return loss, extra


def _exact_step(
    predict: Predict,
    player: nn.Module,
    opponent: nn.Module,
    batch: ChainBatch,
    objective: Objective,
    backward: Backward,
) -> Measured:
    """A micro-batch of the exact objective; its errors are weighted means over the trajectory."""
    assert objective.beta is not None
    opponent_eps, player_eps = (eps_predictor(predict, side, batch) for side in (opponent, player))
    transitions = batch.chain.transitions

    # The opponent draws its trajectory, then the player goes over both twice.
    trajectories = draw_trajectories(opponent_eps, batch.x_0, batch.noise_real, batch.noise_gen, transitions)
    result = exact_gradient(
        player_eps, trajectories, transitions, objective.beta, objective.function, backward
    )
    return {
        "loss": result.loss,
        "error_real": result.error_real.mean(),
        "error_real_change": result.change_real.mean(),
        "error_gen": result.error_gen.mean(),
        "error_gen_change": result.change_gen.mean(),
        "implicit_accuracy": implicit_accuracy(result.margin),
        "margin": result.margin.mean(),
    }


def eps_predictor(predict: Predict, denoiser: nn.Module, batch: ChainBatch) -> PredictEps:
    """A network as the exact objective asks for it, on one copy of the batch's rows or several."""
    chain = batch.chain

    def predict_eps(x_t: Tensor, step: int) -> Tensor:
        timesteps = chain.transitions.timesteps[step].to(x_t.device).expand(len(x_t))
        conditioning = repeat_rows(batch.conditioning, len(x_t) // batch.num_rows)
        prediction = predict(denoiser, x_t, chain.schedule.times(timesteps), conditioning)
        return chain.schedule.to_eps(chain.prediction_type, prediction, x_t, timesteps)

    return predict_eps
