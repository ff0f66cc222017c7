"""How images are drawn."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spin.params.section import PositiveInt, Probability, Section

RUN_ONLY = {"batch_size", "compile"}
"""Settings of a sampler that change speed, memory or rounding only: results are compared and kept whatever they are."""

SchedulerName = Literal["ddim", "ddpm", "pndm", "euler", "dpmsolver++"]


class SamplerParams(Section):
    """How an image is drawn from a model."""

    scheduler: SchedulerName
    num_inference_steps: Annotated[int, Field(gt=0, lt=1000)]
    guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Classifier-free guidance; 1.0 means none and costs half as much."""
    eta: Probability
    """DDIM's stochasticity: 0 deterministic, 1 as DDPM. Must be 0 for the other schedulers."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the denoiser while it draws. The autoencoder stays in fp32, so that drawn images and real ones do not differ
    by its rounding."""
    batch_size: PositiveInt
    """Images drawn at a time; the images do not depend on it."""
    compile: bool
    """Compile the denoiser's repeated blocks with torch.compile; the first two shapes of a batch take up to minutes more."""

    @model_validator(mode="after")
    def _eta_is_ddims(self) -> "SamplerParams":
        if self.eta and self.scheduler != "ddim":
            raise ValueError(
                f"eta must be 0.0 with the scheduler {self.scheduler}, got {self.eta}; only ddim uses it"
            )
        return self


class OpponentParams(SamplerParams):
    """How the previous iterate draws the opponents of an iteration."""

    latents: Literal["reencode", "direct"]
    """`reencode` passes the opponent through the VAE as real images are; `direct` keeps the sampler's latents."""
    drawn_by: Literal["previous", "mixture", "all_earlier"]
    """`previous` is the paper's. The others, fictitious self-play, are *experimental*: `mixture` lets one of all earlier iterates, base included, draw
    each caption's image; `all_earlier` lets every one of them draw one."""
    safety_checker: str | None
    """Folder or hub id of a safety checker whose flagged opponents are never trained on, or null."""
    shard_size: PositiveInt
    """Images in one resumable shard: what a killed run loses at most."""
