"""The opponents of iteration 2, drawn by its stage and read back."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from spin.stages.sample import run_opponents
from tests.stages.projects import parameters

INDEX = Path("outputs/opponents/iter2/index.parquet")


def drawn(
    base: Path, name: str = "iter2", **opponents: Any
) -> tuple[pd.DataFrame, dict[tuple[str, str], torch.Tensor]]:
    """Draw; return the index and the latents by (id, drawn_by)."""
    run_opponents(parameters(base, opponents=opponents), name)
    folder = Path("outputs/opponents") / name
    index = pd.read_parquet(folder / "index.parquet")
    means = torch.cat(
        [load_file(path)["mean"] for path in sorted(folder.glob("shard-*/latents.safetensors"))]
    )
    keys = zip(index["id"], index["drawn_by"], strict=True)
    return index, dict(zip(keys, means, strict=True))
