"""The head that LAION's aesthetic predictor and ImageReward share: linear layers with nothing but dropout between."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class AffineMlp(nn.Module):
    """in -> widths -> 1 without an activation: one affine map, kept in layers because the checkpoints are.

    The originals have dropout after the first three layers, which leaves gaps in the key names (layers.0, 2, 4,
    6, 7); identities keep those places.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.layers = nn.Sequential(
            nn.Linear(in_features, first),
            nn.Identity(),
            nn.Linear(first, second),
            nn.Identity(),
            nn.Linear(second, third),
            nn.Identity(),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, features: Tensor) -> Tensor:
        """(B, in) -> (B, 1)."""
        rating: Tensor = self.layers(features)
        return rating


def head_for(state: Mapping[str, Tensor]) -> nn.Module:
    """An empty head of the shape a checkpoint has: `AffineMlp` (V2) or one linear layer (V1)."""
    if "weight" in state:
        return nn.Linear(state["weight"].shape[1], 1)
    weights = [state[f"layers.{index}.weight"] for index in (0, 2, 4, 6)]
    return AffineMlp(weights[0].shape[1], [weight.shape[0] for weight in weights])
