"""What training minimizes, as pure functions of errors, predictions and margins.

functions    the convex decreasing l of a pair's margin
losses       denoising errors, SPIN and Diffusion-DPO from four errors, SFT, the conventions of beta
guards       SDPO's loser scale, SePPO's sign
exact        SPIN's objective over whole trajectories
watch        a warning when the errors on real and generated images rise together
"""

from spin.objectives.functions import FUNCTIONS, FunctionName, pair_loss
from spin.objectives.guards import error_gradient, loser_scale, opponent_sign, scale_gradient
from spin.objectives.losses import (
    PreferenceLoss,
    beta_on_summed_norm,
    denoising_error,
    implicit_accuracy,
    preference_loss,
    sft_loss,
)
from spin.objectives.watch import RisingErrors

__all__ = [
    "FUNCTIONS",
    "FunctionName",
    "PreferenceLoss",
    "RisingErrors",
    "beta_on_summed_norm",
    "denoising_error",
    "error_gradient",
    "implicit_accuracy",
    "loser_scale",
    "opponent_sign",
    "pair_loss",
    "preference_loss",
    "scale_gradient",
    "sft_loss",
]
