"""Properties of exports: what other tools read back is the checkpoint, to the bit."""

from pathlib import Path

import pytest
import torch

from spin.errors import ModelError
from spin.models.checkpoint import load_model, save_checkpoint
from spin.runtime.files import replacing_dir
from spin.tools.export.formats import export_checkpoint
from spin.training.networks import load_networks
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, record_base
from tests.models.tiny_families import WRITERS
from tests.tools.latents import our_latents, same, their_latents


@pytest.mark.parametrize("name", ["base", "whole", "iter2"])
def test_the_exported_pipeline_draws_what_we_draw(checkpoints: Path, tmp_path: Path, name: str) -> None:
    from diffusers import DiffusionPipeline

    export_checkpoint(checkpoints / name, "pipeline", tmp_path / "out", "fp32", force=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    ours = load_model(checkpoints / name)
    for part in ("vae", "text_encoder"):
        assert same(getattr(pipeline, part), getattr(ours, part))
    assert same(pipeline.unet, ours.denoiser)
    torch.testing.assert_close(our_latents(ours), their_latents(pipeline), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(WRITERS))
def test_every_family_exports_a_pipeline_that_is_a_base_again(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path / "model")
    base = record_base(tmp_path / "base", base_params(tmp_path / "model"))
    player = load_networks(base, CPU, LORA).player
    move(player)
    with replacing_dir(tmp_path / "iter1") as out:
        save_checkpoint(out, "iter1", player, base)
    export_checkpoint(tmp_path / "iter1", "pipeline", tmp_path / "exported", "fp32", force=False)
    export_checkpoint(tmp_path / "iter1", "unet", tmp_path / "denoiser", "fp32", force=False)
    ours = load_model(tmp_path / "iter1")
    again = load_model(record_base(tmp_path / "again", base_params(tmp_path / "exported")))
    assert type(ours) is type(again)
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))
    assert ours.prediction_type == again.prediction_type
    over = base_params(tmp_path / "model", unet=tmp_path / "denoiser")
    assert same(load_model(record_base(tmp_path / "over", over)).denoiser, ours.denoiser)


@pytest.mark.parametrize("name", ["whole", "iter1"])
def test_the_exported_denoiser_is_laid_over_the_base(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, name: str
) -> None:
    from diffusers import UNet2DConditionModel

    export_checkpoint(checkpoints / name, "unet", tmp_path / "out", "fp32", force=False)
    ours = load_model(checkpoints / name).denoiser
    assert same(UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet"), ours)
    over = record_base(tmp_path / "base", base_params(tiny_base, unet=tmp_path / "out"))
    assert same(load_model(over).denoiser, ours)


def test_diffusers_reads_the_exported_lora_back(checkpoints: Path, tiny_base: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    export_checkpoint(checkpoints / "iter2", "lora", tmp_path / "out", "fp32", force=False)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "out")
    torch.testing.assert_close(
        their_latents(pipeline), our_latents(load_model(checkpoints / "iter2")), rtol=1e-3, atol=1e-3
    )


def test_half_precision_rounds_the_fused_weights_once(checkpoints: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    export_checkpoint(checkpoints / "iter2", "pipeline", tmp_path / "out", "fp16", force=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float16)
    ours = load_model(checkpoints / "iter2")
    for theirs, network in (
        (pipeline.unet, ours.denoiser),
        (pipeline.vae, ours.vae),
        (pipeline.text_encoder, ours.text_encoder),
    ):
        assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float16}
        assert same(theirs, network.half())


def test_weights_that_overflow_in_half_precision_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    player = load_networks(checkpoints / "base", CPU).player
    with torch.no_grad():
        next(player.parameters()).fill_(1e6)
    with replacing_dir(tmp_path / "large") as out:
        save_checkpoint(out, "large", player, checkpoints / "base")
    with pytest.raises(ModelError, match=r"must be finite numbers, .* use --dtype bf16"):
        export_checkpoint(tmp_path / "large", "unet", tmp_path / "out", "fp16", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]
