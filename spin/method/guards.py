"""Guards against the known failure of preference losses: the opponent's images dominate and both errors rise.

The loser scale is SDPO's (arXiv:2511.03317), the sign SePPO's (arXiv:2410.05255). Both act on errors and gradients
that `spin.method.losses` then takes as they come.
"""

import torch
from torch import Tensor


def loser_scale(gradient_real: Tensor, gradient_gen: Tensor, mu: float) -> Tensor:
    """SDPO's factor () in [0, 1] on the gradient that comes from generated images.

    With gA, gB (B, C, H, W) the gradients of the mean errors on real and generated images with respect to the
    predictions (`error_gradient`), 0 < mu < 1:

        scale = clip((1 - mu) ||gA||^2 / <gA, gB>, 0, 1)  if <gA, gB> > 0, else 1

    A step along -(gA - scale gB) then changes the error on real images by -<gA, gA - scale gB> <= -mu ||gA||^2 to
    first order: it falls. 1e-9 on the denominator keeps the quotient finite and errs towards less of gB.
    """
    dtype = torch.promote_types(gradient_real.dtype, torch.float32)
    real, gen = gradient_real.detach().to(dtype).flatten(), gradient_gen.detach().to(dtype).flatten()
    inner = (real * gen).sum()  # not a dot product: autocast would take that in half precision
    limit = (1.0 - mu) * real.square().sum() / (inner.clamp(min=0.0) + 1e-9)
    return torch.where(inner > 0, limit.clamp(0.0, 1.0), torch.ones_like(inner))


def error_gradient(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the mean over the batch of weights * `denoising_error` with respect to `prediction` (B, C, H, W).

    `weights` (B,); the result is detached and in fp32 or more.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    residual = prediction.detach().to(dtype) - target.to(dtype)
    return 2.0 / residual.numel() * weights.reshape(-1, *[1] * (residual.ndim - 1)) * residual


def scale_gradient(errors: Tensor, scale: Tensor) -> Tensor:
    """The same values (B,), with `scale` () on their gradient: the reported loss stays what it is."""
    return errors.detach() + scale * (errors - errors.detach())


def opponent_sign(player_real: Tensor, opponent_real: Tensor) -> Tensor:
    """SePPO's sign (B,) on the errors on the opponent's image: +1 repels, -1 attracts.

    Where the player denoises the real image at least as well as the opponent does, the opponent's sample is the worse
    one and repels, as in SPIN. Where the opponent denoises it better, its sample is worth learning from and attracts:
    sign(r_w - e_w) with the reference's error r_w and the player's e_w; a tie repels.
    """
    ahead = player_real.detach() <= opponent_real.detach()
    return torch.where(ahead, 1.0, -1.0).to(player_real.dtype)
