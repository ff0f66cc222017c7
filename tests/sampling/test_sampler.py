"""Properties of sampling: an image is a function of its prompt and its own random stream."""

from pathlib import Path

import pytest
import torch

from spin.models.checkpoint import load_model, reference_of
from spin.models.conditioning import square_geometry
from spin.models.stable_diffusion import StableDiffusion
from spin.params.model import BaseParams
from spin.params.sampling import SamplerParams
from spin.runtime.files import write_json
from spin.sampling.sampler import Guidance, sample_images, sample_latents
from spin.seeding import generator_for
from tests.models.tracing import trace_alone

PROMPTS = ["a red circle left of a blue square on white", "a green square above a red circle on black", ""]


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    write_json(
        checkpoint / "model.json",
        reference_of(BaseParams(source=str(tiny_base), revision=None, config=None, unet=None)),
    )
    return load_model(checkpoint)


def sampler(
    scheduler: str = "ddim", guidance_scale: float = 3.0, eta: float = 0.0, steps: int = 4
) -> SamplerParams:
    return SamplerParams.model_validate(
        {
            "scheduler": scheduler,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "eta": eta,
            "precision": "fp32",
            "batch_size": 4,
            "compile": False,
        }
    )


def draw(diffusion: StableDiffusion, rows: list[int], params: SamplerParams) -> torch.Tensor:
    text, empty = diffusion.encode_prompts([PROMPTS[row] for row in rows]), diffusion.encode_prompts([""])
    generators = [generator_for("image", row) for row in rows]
    geometry = square_geometry(len(rows), 32)
    return sample_latents(diffusion, Guidance(text, empty, geometry), generators, params, 32)


@pytest.mark.parametrize(
    ("scheduler", "eta"),
    [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("pndm", 0.0), ("euler", 0.0), ("dpmsolver++", 0.0)],
)
def test_the_same_stream_gives_the_same_image_whatever_the_batch(
    diffusion: StableDiffusion, scheduler: str, eta: float
) -> None:
    params = sampler(scheduler, eta=eta)
    together = draw(diffusion, [0, 1, 2], params)
    alone = torch.cat([draw(diffusion, [row], params) for row in (0, 1, 2)])
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.1), "other streams give other images"


def test_drawing_twice_gives_the_same_bits(diffusion: StableDiffusion) -> None:
    assert torch.equal(draw(diffusion, [0, 1], sampler()), draw(diffusion, [0, 1], sampler()))


def test_guidance_one_is_the_conditional_model_alone(diffusion: StableDiffusion) -> None:
    empty_prompt = draw(diffusion, [2], sampler(guidance_scale=5.0))
    unguided = draw(diffusion, [2], sampler(guidance_scale=1.0))
    torch.testing.assert_close(
        empty_prompt, unguided, rtol=1e-4, atol=1e-4
    )  # both branches are the empty prompt


def test_our_sampler_is_diffusers_pipeline(diffusion: StableDiffusion, tiny_base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((4, 8, 8), generator=generator_for("image", 0))[None]
    expected = pipeline(
        PROMPTS[0],
        latents=noise,
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="latent",
        height=32,
        width=32,
    ).images
    torch.testing.assert_close(draw(diffusion, [0], sampler()), expected, rtol=1e-4, atol=1e-4)


def test_images_are_uint8_of_the_resolution(diffusion: StableDiffusion) -> None:
    text, empty = diffusion.encode_prompts(PROMPTS[:2]), diffusion.encode_prompts([""])
    generators = [generator_for("image", row) for row in (0, 1)]
    images, latents = sample_images(
        diffusion, Guidance(text, empty, square_geometry(2, 32)), generators, sampler(), 32
    )
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == torch.uint8
    assert latents.shape == (2, 4, 8, 8)


def test_a_denoiser_in_half_precision_draws_nearly_the_same_and_the_vae_stays_exact(
    tiny_base: Path, tmp_path: Path
) -> None:
    from spin.models.checkpoint import load_to_draw

    base = BaseParams(source=str(tiny_base), revision=None, config=None, unet=None)
    write_json(tmp_path / "model.json", reference_of(base))
    exact = load_to_draw(tmp_path, "cpu", sampler())
    rounded = load_to_draw(tmp_path, "cpu", sampler().model_copy(update={"precision": "bf16"}))
    assert next(rounded.denoiser.parameters()).dtype == torch.bfloat16
    assert next(rounded.vae.parameters()).dtype == torch.float32
    whole, half = draw(exact, [0, 1], sampler()), draw(rounded, [0, 1], sampler())
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    torch.testing.assert_close(whole, half, rtol=0.1, atol=0.1)


def test_a_compiled_denoiser_draws_the_same_from_batches_of_any_size(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spin.models.checkpoint import load_to_draw

    compiled = trace_alone(monkeypatch)
    base = BaseParams(source=str(tiny_base), revision=None, config=None, unet=None)
    write_json(tmp_path / "model.json", reference_of(base))
    eager = load_to_draw(tmp_path, "cpu", sampler())
    assert not compiled
    asked = load_to_draw(tmp_path, "cpu", sampler().model_copy(update={"compile": True}))
    assert len(compiled) == 4, "the blocks that the tiny UNet repeats"
    for rows in ([0, 1, 2], [0], [1, 2]):
        torch.testing.assert_close(
            draw(asked, rows, sampler()), draw(eager, rows, sampler()), rtol=1e-4, atol=1e-5
        )
