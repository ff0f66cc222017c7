"""The losses: SPIN-Diffusion, Diffusion-DPO and supervised fine-tuning, from per-sample denoising errors.

SPIN-Diffusion (Yuan et al. 2024, arXiv:2402.10210), approximate objective, in its epsilon form. With
E(m, x_0) = mean over elements of (eps_m(x_t, c, t) - eps)^2, the error of model m on one image:

    margin = [E(opponent, real) - E(player, real)] - [E(opponent, gen) - E(player, gen)]
    loss   = mean over the batch of l(beta / 2 * margin),   l(x) = log(1 + exp(-x)) unless said otherwise

The player must denoise real images better than its past self does, and that self's own images worse. Diffusion-DPO
(Wallace et al. 2023, arXiv:2311.12908) is the same expression with the winner for `real`, the loser for `gen`, and
the base for `opponent`. One number by hand: errors .10 and .12 of the opponent on real and gen, .09 and .13 of the
player: margin = .01 - (-.01) = .02, and at beta 100 the loss is log(1 + exp(-1)) = .3133.

Weights of the timestep multiply the errors of each member before they come here, each with the weight of its own
timestep. Errors are taken in the space the network predicts in (eps, v or the flow's velocity), as the peers take
them; `NoiseSchedule.timestep_weights` carries the exact weight over to that space.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from spin.method.functions import FunctionName, pair_loss


class PreferenceLoss(NamedTuple):
    """What one batch of pairs gives."""

    loss: Tensor
    """(), to be minimized; l(0) when the player equals the opponent, log 2 for the logistic l."""
    margin: Tensor
    """(B,), detached; positive where the player tells real from generated better than the opponent."""


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per image, in fp32 or more: (B, C, H, W), (B, C, H, W) -> (B,).

    A mean, so that beta does not depend on the size of the latents. Squaring in half precision would put noise
    of order one on the logit at beta 5000.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def preference_loss(
    player_real: Tensor,
    player_gen: Tensor,
    opponent_real: Tensor,
    opponent_gen: Tensor,
    beta: float,
    function: FunctionName = "logistic",
) -> PreferenceLoss:
    """SPIN's loss from the four denoising errors of a batch, each (B,); beta > 0.

    For Diffusion-DPO pass the errors on winners as `real` and on losers as `gen`.
    """
    margin = (opponent_real - player_real) - (opponent_gen - player_gen)  # (B,)
    return PreferenceLoss(loss=pair_loss(margin, beta, function).mean(), margin=margin.detach())


def implicit_accuracy(margin: Tensor) -> Tensor:
    """Share of pairs (B,) that the player tells apart better than the opponent; a pair at exactly 0 counts as not told apart."""
    return (margin > 0).float().mean()


def sft_loss(player_real: Tensor) -> Tensor:
    """The denoising loss of supervised fine-tuning, from errors on real images (B,)."""
    return player_real.mean()


def beta_on_summed_norm(beta: float, num_elements: int) -> float:
    """The paper's weight of the summed squared norm that equals `beta` here: beta / (2 num_elements).

    Published betas (2000 to 5000) are Diffusion-DPO's: they multiply a mean over the `num_elements` = C H W elements
    of a latent, and one half. The paper's epsilon form has l(-beta_t (||.||^2 - ...)) on sums and no half, with
    beta_t = lambda T h_t^2 / (2 s_t^2). For 4 x 64 x 64 latents beta 5000 is 5000 / 16384 = .305 on the sum with the
    half kept, and so beta_t = .153. With `timestep_weighting: exact` this is the mean of beta_t over t, hence
    lambda = beta / (2 C H W sum_t h_t^2 / (2 s_t^2)): T lambda is absorbed in beta, which so keeps its size.
    """
    return beta / (2 * num_elements)
