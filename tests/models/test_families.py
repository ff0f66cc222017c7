"""Every family is its diffusers pipeline: in latents, images, prompts, sizes and noise."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spin.errors import ParamsError
from spin.models.checkpoint import load_model, reference_of
from spin.models.conditioning import square_geometry
from spin.models.sdxl import StableDiffusionXL
from spin.params.sampling import SamplerParams
from spin.runtime.files import read_json, write_json
from spin.sampling.sampler import Guidance, sample_latents
from spin.seeding import generator_for
from tests.models.bases import base_params, load_base
from tests.models.drawing import PROMPT, draw


def open_pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    absent = [
        name
        for name, entry in read_json(folder / "model_index.json").items()
        if name.endswith("_3") and entry[0] is None
    ]
    pipeline = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(absent))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sd2", "ddim"),
        ("sdxl", "euler"),
        ("sdxl-without-zeros", "euler"),
        ("sd3", "euler"),
        ("sd3-without-t5", "euler"),
    ],
)
def test_our_latents_are_those_of_the_diffusers_pipeline(
    bases: dict[str, Path], tmp_path: Path, name: str, scheduler: str
) -> None:
    pipeline = open_pipeline(bases[name])
    diffusion = load_base(bases[name], tmp_path)
    noise = torch.randn(diffusion.latent_shape(32), generator=generator_for("image", 0))[None]
    expected = pipeline(
        PROMPT,
        latents=noise,
        num_inference_steps=3,
        guidance_scale=3.0,
        output_type="latent",
        height=32,
        width=32,
    ).images
    torch.testing.assert_close(draw(diffusion, scheduler), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, noise, atol=0.1)


@pytest.mark.parametrize(("name", "scheduler"), [("sd2", "ddim"), ("sdxl", "euler"), ("sd3", "euler")])
@pytest.mark.parametrize(("height", "width"), [(40, 24), (24, 48)])
def test_latents_of_other_shapes_are_the_pipelines_told_of_the_same_crop(
    bases: dict[str, Path], tmp_path: Path, name: str, scheduler: str, height: int, width: int
) -> None:
    diffusion = load_base(bases[name], tmp_path)
    params = SamplerParams(
        scheduler=scheduler,
        num_inference_steps=2,
        guidance_scale=3.0,
        eta=0.0,
        precision="fp32",
        batch_size=1,
        compile=False,
    )
    text, empty = diffusion.encode_prompts([PROMPT]), diffusion.encode_prompts([""])
    guidance = Guidance(text, empty, torch.tensor([[70.0, 50.0, 3.0, 1.0, height, width]]))
    ours = sample_latents(diffusion, guidance, [generator_for("image", 0)], params, (height, width))
    channels = diffusion.latent_shape(32)[0]
    assert ours.shape == (1, channels, height // 4, width // 4)

    crop: dict[str, Any] = {"original_size": (70, 50), "crops_coords_top_left": (3, 1)}
    crop = crop | {"target_size": (height, width)} if name == "sdxl" else {}
    expected = open_pipeline(bases[name])(
        PROMPT,
        latents=torch.randn(ours.shape[1:], generator=generator_for("image", 0))[None],
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
        height=height,
        width=width,
        **crop,
    ).images
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert diffusion.decode_latents(ours).shape == (1, height, width, 3)


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sd3", "sd3-without-t5"])
def test_images_go_to_latents_and_back_as_in_the_pipeline(
    bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    pipeline = open_pipeline(bases[name])
    diffusion = load_base(bases[name], tmp_path)
    latents = torch.randn((2, *diffusion.latent_shape(32)), generator=generator_for("latents", 0))
    raw = diffusion.unscale(latents)
    torch.testing.assert_close(diffusion.scale(raw), latents)
    with torch.no_grad():
        pixels = pipeline.image_processor.postprocess(pipeline.vae.decode(raw).sample, output_type="np")
    images = diffusion.decode_latents(latents)
    assert (torch.from_numpy(pixels * 255).round() - images).abs().max() <= 1
    mean, logvar = diffusion.encode_images(images.permute(0, 3, 1, 2) / 127.5 - 1)
    assert mean.shape == logvar.shape == latents.shape


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "pndm", "euler", "dpmsolver++"])
def test_every_diffusion_sampler_draws_from_every_diffusion_family(
    bases: dict[str, Path], tmp_path: Path, name: str, scheduler: str
) -> None:
    latents = draw(load_base(bases[name], tmp_path), scheduler)
    assert latents.isfinite().all()


def test_latents_are_never_clipped_to_the_range_of_pixels(bases: dict[str, Path], tmp_path: Path) -> None:
    """SDXL's published scheduler says nothing of clip_sample, which DDIM by default has on."""
    from spin.sampling.sampler import make_sampler

    diffusion = load_base(bases["sdxl"], tmp_path)
    assert "clip_sample" not in diffusion.scheduler_config
    for scheduler in ("ddim", "ddpm"):
        params = SamplerParams(
            scheduler=scheduler,
            num_inference_steps=2,
            guidance_scale=1.0,
            eta=0.0,
            precision="fp32",
            batch_size=1,
            compile=False,
        )
        assert make_sampler(diffusion.scheduler_config, params).config.clip_sample is False


def test_a_flow_base_is_drawn_from_with_euler_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"scheduler must be euler with a flow-matching base, got ddim"):
        draw(load_base(bases["sd3"], tmp_path), "ddim")


def test_the_empty_prompt_is_zeros_where_the_base_says_so(bases: dict[str, Path], tmp_path: Path) -> None:
    zeros = load_base(bases["sdxl"], tmp_path / "zeros")
    text = zeros.encode_prompts([PROMPT, ""])
    assert isinstance(zeros, StableDiffusionXL)
    assert all(tensor[1].abs().max() == 0 < tensor[0].abs().max() for tensor in text.values())
    written = load_base(bases["sdxl-without-zeros"], tmp_path / "written").encode_prompts([PROMPT, ""])
    assert all(tensor[1].abs().max() > 0 for tensor in written.values())
    for name in text:
        torch.testing.assert_close(text[name][0], written[name][0])


def test_sdxl_hears_of_sizes_and_the_others_do_not(bases: dict[str, Path], tmp_path: Path) -> None:
    x_t, times = torch.randn(1, 4, 8, 8, generator=generator_for("x")), torch.tensor([500])
    small = square_geometry(1, 32)
    cropped = torch.tensor([[64.0, 48.0, 16.0, 8.0, 32.0, 32.0]])
    for name, told in (("sdxl", True), ("sd2", False)):
        diffusion = load_base(bases[name], tmp_path / name)
        text = diffusion.encode_prompts([PROMPT])
        predictions = [
            diffusion.predict(diffusion.denoiser, x_t, times, diffusion.with_geometry(text, geometry))
            for geometry in (small, cropped)
        ]
        assert torch.equal(*predictions) is not told


def test_the_autoencoder_stays_in_fp32_where_its_config_asks_for_it(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    write_json(tmp_path / "model.json", reference_of(base_params(bases["sdxl"])))
    diffusion = load_model(tmp_path, dtype=torch.bfloat16)
    assert diffusion.vae.dtype == torch.float32
    assert {network.dtype for network in diffusion.networks() if network is not diffusion.vae} == {
        torch.bfloat16
    }
    assert diffusion.decode_latents(torch.zeros(1, 4, 8, 8)).shape == (1, 32, 32, 3)


def test_noise_is_added_as_the_scheduler_of_the_family_does(bases: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    for name in ("sd3", "sd3-without-t5"):
        diffusion = load_base(bases[name], tmp_path / name)
        theirs = FlowMatchEulerDiscreteScheduler.from_config(diffusion.scheduler_config)
        schedule = diffusion.noise_schedule
        timesteps = torch.tensor([0, 400, 999])
        x_0 = torch.randn(3, 16, 8, 8, generator=generator_for("x"))
        eps = torch.randn(x_0.shape, generator=generator_for("eps"))
        times = schedule.times(timesteps)
        torch.testing.assert_close(times, theirs.timesteps.flip(0)[timesteps])
        expected = theirs.scale_noise(x_0, theirs.timesteps.flip(0)[timesteps], eps)
        torch.testing.assert_close(schedule.add_noise(x_0, eps, timesteps), expected)
        torch.testing.assert_close(schedule.target(diffusion.prediction_type, x_0, eps, timesteps), eps - x_0)


def test_the_patches_of_the_transformer_must_tile_the_image(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="resolution must be a multiple of 8 for this base, got 36"):
        load_base(bases["sd3"], tmp_path).latent_shape(36)
