"""Checkpoints to export and samples to judge, as the stages leave them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spin.models.checkpoint import save_checkpoint
from spin.runtime.files import replacing_dir, write_json
from spin.training.networks import load_networks
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, record_base
from tests.tools.arena_samples import MODELS, PROMPTS


@pytest.fixture(scope="session")
def checkpoints(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; whole, trained whole from it; iter1 and iter2, trained with LoRA."""
    folder = tmp_path_factory.mktemp("checkpoints")
    record_base(folder / "base", base_params(tiny_base))
    for name, prev, lora in (("whole", "base", None), ("iter1", "base", LORA), ("iter2", "iter1", LORA)):
        player = load_networks(folder / prev, CPU, lora).player
        move(player, 0.02 if lora is None else 0.1)
        with replacing_dir(folder / name) as out:
            save_checkpoint(out, name, player, folder / prev)
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Images of two models, every one of its own colours: a client can tell them by their bytes."""
    for model in MODELS:
        folder = tmp_path / "samples" / model
        (folder / "images").mkdir(parents=True)
        rows = []
        for index in range(PROMPTS):
            pixels = np.random.default_rng(index).integers(256, size=(8, 8, 3), dtype=np.uint8)
            pixels[0, 0] = 255 if model == "iter1" else 0
            Image.fromarray(pixels).save(folder / "images" / f"{index:05d}-0.png")
            row = {"prompt_id": f"test-{index}", "prompt": f"thing {index}", "category": "", "image_index": 0}
            rows.append({**row, "seed": 1000, "image": f"images/{index:05d}-0.png"})
        pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
        write_json(folder / "protocol.json", {"seed": 1000, "guidance_scale": 3.0})
    return tmp_path / "samples"
