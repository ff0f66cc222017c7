"""What SDXL is told of an image besides its caption: how large it was, where it was cropped, how large it is."""

import pandas as pd
import torch
from torch import Tensor

GEOMETRY = ["original_height", "original_width", "crop_top", "crop_left", "height", "width"]
"""Columns of the manifest, in the order of SDXL's time ids (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""


def geometry_of(rows: pd.DataFrame) -> Tensor:
    """Geometry (B, 6) of manifest rows, in pixels."""
    return torch.tensor(rows[GEOMETRY].to_numpy(dtype="float32"))
