"""Training and drawing opponents load no text encoder: captions come from the cache."""

from pathlib import Path

import pytest
import torch

from spin.models.checkpoint import load_model, reference_of, weights_digest
from spin.models.digests import DENOISER, recorded_digest
from spin.runtime.files import write_json
from spin.training.networks import load_networks
from tests.models.bases import base_params, record_base


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl", "sd3"])
def test_a_model_without_text_predicts_as_the_whole_one(others: Path, tmp_path: Path, name: str) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(others / name))
    whole, bare = load_model(checkpoint), load_model(checkpoint, with_text=False)
    assert bare.networks() == [bare.denoiser, bare.vae] or bare.networks() == [bare.vae, bare.denoiser]
    assert all(getattr(bare, part) is None for part in bare.text_parts())
    told = whole.with_geometry(whole.encode_prompts(["a red circle"]), torch.full((1, 6), 32.0))
    x_t = torch.randn(1, *whole.latent_shape(32), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([500.0 if name == "sd3" else 500])
    with torch.no_grad():
        ours, theirs = (model.predict(model.denoiser, x_t, times, told) for model in (bare, whole))
    assert torch.equal(ours, theirs)


def test_a_single_file_is_read_without_text(others: Path, single_files: Path, tmp_path: Path) -> None:
    given = base_params(single_files / "sd.safetensors", config=others / "sd")
    bare = load_model(record_base(tmp_path / "base", given), with_text=False)
    assert len(bare.networks()) == 2


def test_training_holds_no_text_encoder(others: Path, tmp_path: Path) -> None:
    networks = load_networks(
        record_base(tmp_path / "base", base_params(others / "sdxl")), torch.device("cpu")
    )
    assert len(networks.diffusion.networks()) == 2


def test_a_checkpoint_that_calls_its_denoiser_unet_is_still_read(tiny_base: Path, tmp_path: Path) -> None:
    assert recorded_digest({"unet_sha256": "old"}) == "old"
    assert recorded_digest({"unet_sha256": "old", DENOISER: "new"}) == "new"
    old = {"name": "iter1", "base": reference_of(base_params(tiny_base)), "unet_sha256": "old"}
    write_json(tmp_path / "model.json", old)
    assert weights_digest(tmp_path) == "old"
