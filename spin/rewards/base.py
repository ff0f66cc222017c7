"""What a reward model is to the rest of the project: something with a name that scores images against prompts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from spin.errors import ScoreError
from spin.runtime.meter import count


@runtime_checkable
class Scorer(Protocol):
    """A reward model, or anything of a user's own that has these (entry point group `spin.scorers`)."""

    name: str
    """Column of the score tables."""
    version: str
    """Which weights or convention: scores of different versions are never compared."""
    scale: str
    """What the number is, in words: `cosine`, `exp(logit_scale) * cosine`, ..."""
    sha256: str
    """Of the weights, in hex."""

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Score image i against prompt i; (B,) float32 on the CPU, higher is better."""
        ...


class TorchScorer(ABC):
    """A reward model that runs one torch module: subclasses say how raw scores are computed."""

    def __init__(
        self, name: str, version: str, scale: str, sha256: str, device: str, dtype: torch.dtype
    ) -> None:
        self.name = name
        self.version = version
        self.scale = scale
        self.sha256 = sha256
        self.device = torch.device(device)
        self.dtype = dtype

    @abstractmethod
    def raw(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return the scores, (B,) in at least float32, on `self.device`; gradients are the caller's affair."""

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Score image i against prompt i; (B,) float32 on the CPU. Raises `ScoreError` if the counts differ."""
        check_batch(self.name, images, prompts)
        count(len(images), f"scorer {self.name}")
        with torch.inference_mode():
            return self.raw(images, prompts).float().cpu()


def check_batch(name: str, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
    """Refuse a batch whose images and prompts do not pair up, or that is empty."""
    if len(images) != len(prompts) or not images:
        raise ScoreError(
            f"{name} must be given one prompt for every image, got {len(images)} images and {len(prompts)} prompts;"
            " pass lists of the same length, at least one."
        )


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype scores are computed in: the model's, but never less than float32."""
    return torch.promote_types(dtype, torch.float32)


def cosine(text_features: Tensor, image_features: Tensor) -> Tensor:
    """Cosine of row i with row i, (B, D) x (B, D) -> (B,), in at least float32."""
    dtype = at_least_float32(text_features.dtype)
    text, image = text_features.to(dtype), image_features.to(dtype)
    text = text / text.norm(dim=-1, keepdim=True)
    image = image / image.norm(dim=-1, keepdim=True)
    similarity: Tensor = (text * image).sum(-1)
    return similarity
