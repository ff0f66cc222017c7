"""One image of one prompt from its own random stream, as latents."""

from torch import Tensor

from spin.models.conditioning import square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.sampling import SamplerParams
from spin.sampling.sampler import Guidance, sample_latents
from spin.seeding import generator_for

PROMPT = "a red circle left of a blue square on white"


def draw(diffusion: LatentDiffusion, scheduler: str, prompt: str = PROMPT, steps: int = 3) -> Tensor:
    params = SamplerParams.model_validate(
        {
            "scheduler": scheduler,
            "num_inference_steps": steps,
            "guidance_scale": 3.0,
            "eta": 0.0,
            "precision": "fp32",
            "batch_size": 1,
            "compile": False,
        }
    )
    text, empty = diffusion.encode_prompts([prompt]), diffusion.encode_prompts([""])
    generators = [generator_for("image", 0)]
    return sample_latents(diffusion, Guidance(text, empty, square_geometry(1, 32)), generators, params, 32)
