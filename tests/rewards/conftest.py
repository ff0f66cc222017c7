"""Tiny scorers, and images to score."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from spin.runtime.files import write_json
from spin.tools.toy.scorers import build_scorers
from spin.toy.world import render, to_uint8
from tests.rewards.scenes import PROMPTS, SCENES


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scorers trained for a step or two: right in form, wrong in judgement."""
    folder = tmp_path_factory.mktemp("scorers")
    build_scorers(folder, seed=0, steps_scale=0.001)
    return folder


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.fromarray(to_uint8(render(scene))) for scene in SCENES]


@pytest.fixture
def samples(tmp_path: Path, images: list[Image.Image]) -> Path:
    folder = tmp_path / "samples" / "iter1"
    (folder / "images").mkdir(parents=True)
    rows = []
    for index, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        image.save(folder / "images" / f"{index:05d}-0.png")
        row = {"prompt_id": f"test-{index}", "prompt": prompt, "category": "", "image_index": 0, "seed": 1000}
        rows.append({**row, "image": f"images/{index:05d}-0.png"})
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    write_json(folder / "protocol.json", {"num_prompts": len(PROMPTS), "images_per_prompt": 1, "seed": 1000})
    return folder
