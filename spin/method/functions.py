"""The convex functions l that turn the margin of a pair into its loss.

SPIN's theory allows any convex decreasing l (Chen et al. 2024, arXiv:2401.01335; for diffusion Yuan et al. 2024,
arXiv:2402.10210). All of them are taken at the same point x = beta / 2 * margin, so that beta means the same margin
whichever is chosen, and all pull a pair with slope l'(x) < 0: descent raises the margin.

name          l(x)              l(0)   l'(0)  source and behaviour
logistic      log(1 + exp(-x))  log 2  -1/2   the papers'; a pair that is won pulls less and less
hinge         max(0, 1 - x)     1      -1     a pair pulls with constant force until x = 1, then not at all
squared       (1 - x)^2         1      -2     IPO (Azar et al. 2023, arXiv:2310.12036); decreasing up to x = 1, beyond
                                              which it pulls the margin back, as IPO means it to
exponential   exp(-x)           1      -1     a pair that is lost pulls without bound: overflows fp32 below x = -88
correlation   1 - x             1      -1     every pair pulls alike, however far it is won: nothing ends the fall of l

IPO writes (margin - 1 / (2 tau))^2, which is (1 / (2 tau))^2 times `squared` at beta = 4 tau. The hinge and sigmoid
losses of diffusers' Diffusion-DPO scripts leave out the factor one half: they are these at twice their beta.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

FunctionName = Literal["logistic", "hinge", "squared", "exponential", "correlation"]

FUNCTIONS: dict[FunctionName, Callable[[Tensor], Tensor]] = {
    "logistic": lambda x: -F.logsigmoid(x),
    "hinge": lambda x: F.relu(1.0 - x),
    "squared": lambda x: (1.0 - x).square(),
    "exponential": lambda x: torch.exp(-x),
    "correlation": lambda x: 1.0 - x,
}


def pair_loss(margin: Tensor, beta: float, function: FunctionName) -> Tensor:
    """l(beta / 2 * margin) of each pair, (B,) -> (B,); beta > 0."""
    return FUNCTIONS[function](0.5 * beta * margin)
