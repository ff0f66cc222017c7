"""The embedded world's oracle in the shape of a reward model: what an image shows, read from its pixels."""

import torch
from PIL import Image
from torch import Tensor

from spin.errors import DataError, ScoreError
from spin.rewards.base import check_batch
from spin.runtime.code import code_digest
from spin.toy import oracle

SCALES = {
    "oracle_psnr": "dB to the correct rendering",
    "oracle_attributes": "share of the caption's facts shown",
}


class OracleScorer:
    """`oracle_psnr` or `oracle_attributes`; has no weights, so its hash is that of the world's code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scale = SCALES[name]
        self.sha256 = code_digest("spin.toy.oracle")
        self.version = f"embedded world {self.sha256[:8]}"

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Judge image i for caption i; (B,) float32. Raises `ScoreError` for a caption the world does not know."""
        check_batch(self.name, images, prompts)
        try:
            verdicts = [oracle.judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        except DataError as error:
            raise ScoreError(f"{self.name} judges the embedded world only: {error}") from None
        field = self.name.removeprefix("oracle_")
        return torch.tensor([float(getattr(verdict, field)) for verdict in verdicts])


def load_oracle(name: str, source: str | None) -> OracleScorer:
    """Return an oracle; raises `ScoreError` if its source is not `toy`."""
    if source not in (None, "toy"):
        raise ScoreError(
            f"{name} must have the source toy, got {source}; it reads the embedded world's images only."
        )
    return OracleScorer(name)
