"""Checkpoints to export and samples to judge, as the stages leave them; photographs to caption, and who captions them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spin.models.checkpoint import save_checkpoint
from spin.runtime.files import replacing_dir, write_json
from spin.training.networks import load_networks
from tests.data.images import jpeg
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, record_base
from tests.tools import captioners
from tests.tools.arena_samples import MODELS, PROMPTS

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture(scope="session")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny captioning model by its type."""
    made = {
        kind: str(write(tmp_path_factory.mktemp("captioner") / kind))
        for kind, write in captioners.MODELS.items()
    }
    return made.__getitem__


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs without captions, half of them in a folder below, in a project."""
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for index in range(captioners.NUM_PHOTOS):
        (tmp_path / "photos" / ("below" if index % 2 else "") / f"{index:02d}.jpg").write_bytes(jpeg(index))
    return Path("photos")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[captioners.Endpoint]:
    """A server that captions."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("spin.tools.caption.endpoint.WAITS", (0.0, 0.0))
    with captioners.serving() as served:
        yield served
