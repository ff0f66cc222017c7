"""How a stage trains."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spin.params.section import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Rate,
    Section,
    Text,
)

NOT_THE_METHOD = {
    "checkpoint_every",
    "compile",
    "gradient_checkpointing",
    "micro_batch_size",
    "preview_every",
}
"""Training settings that change speed, memory or rounding only: a killed run goes on under other ones."""


class LoraParams(Section):
    """Low-rank adapters (Hu et al. 2021) on the denoiser's linear layers, through peft."""

    rank: PositiveInt
    alpha: PositiveFloat
    """The update is scaled by alpha / rank."""
    targets: Annotated[list[Text], Field(min_length=1)]
    """Endings of the names of the layers that get an adapter, such as to_q."""


class TagParams(Section):
    """*Experimental*: captions that are tags with commas between, told in another order and with some left out."""

    variants: Annotated[int, Field(gt=0, le=1000)]
    """Arrangements of each caption, 1000 at most; its text embeddings are cached so many times, and an update draws one."""
    keep: NonNegativeInt
    """The first tags, which stay where they are: a word to teach, or what the image is of."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the other tags that an arrangement leaves out."""


class TrainingParams(Section):
    """What every training stage shares."""

    batch_size: PositiveInt
    """Pairs (SFT: images) per optimizer update, over all devices and micro-batches."""
    micro_batch_size: PositiveInt | Literal["auto"]
    """Pairs through the network at a time on one device; changes memory and speed, not the method. `auto` starts at
    the whole batch and halves it whenever memory runs out."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the forward passes. Errors, losses and the optimizer stay in fp32."""
    lora: LoraParams | None
    """Train low-rank adapters instead of the whole network, or null."""
    ema_decay: Fraction | None
    """*Experimental*: save an exponential moving average of the weights with this decay; null saves the last weights."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"]
    """`adamw_8bit` and `adafactor` are *experimental*."""
    adam_betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    adam_eps: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    """Global L2 norm above which gradients are scaled down."""
    lr_scheduler: Literal["constant", "linear", "cosine"]
    """After the warm-up: hold, or decay to 0 by the last step."""
    caption_dropout: Probability
    """Share of captions replaced by the empty one, which keeps classifier-free guidance trained."""
    tags: TagParams | None
    """Arrange captions that are tags anew, or null. Both members of a pair are told the same; the opponent was drawn for
    the caption as it is."""
    horizontal_flip: bool
    """Mirror half of the training images, each member of a pair by its own draw, as the peers do. Images and opponents are
    encoded both ways; an object that has a left and a right, such as writing, is learned in both."""
    sample_posterior: bool
    """Draw training latents from the VAE's posterior (as the peers do) or take its mean."""
    timestep_sampling: Literal["uniform", "logit_normal"]
    """How a pair's timestep is drawn: uniform is the papers'; logit_normal, *experimental*, is SD3's (Esser et al.
    2024, section 3.1)."""
    reference_draws: PositiveInt | None
    """How many draws of timestep, noise, caption and mirroring a pair has. The reference's errors on them are
    computed once, before the first update, and it leaves memory; a later visit of the pair takes the next of its draws in
    turn. null draws anew at every visit, as the papers do. Supervised fine-tuning always does."""
    gradient_checkpointing: bool
    compile: bool
    """Compile the network's repeated blocks with torch.compile; the first update takes minutes longer."""
    preview_every: NonNegativeInt
    """Updates between two grids of fixed held-out captions and seeds (outputs/previews); 0 draws none."""
    checkpoint_every: PositiveInt
    """Optimizer updates between the step checkpoints a killed run resumes from."""

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> "TrainingParams":
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size must be a multiple of micro_batch_size, got {self.batch_size} and {self.micro_batch_size}"
            )
        return self


class StageParams(Section):
    """One training stage, starting from and compared with the checkpoint `prev`."""

    prev: str
    """`base` or the name of an iteration: the start of the player and, frozen, its reference."""
    learning_rate: Rate
    num_steps: PositiveInt
    """Optimizer updates."""
    warmup_steps: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _warm_up_fits(self) -> "StageParams":
        if self.warmup_steps > self.num_steps:
            raise ValueError(
                f"warmup_steps must be at most num_steps, got {self.warmup_steps} and {self.num_steps}; lower it"
            )
        return self


class IterationParams(StageParams):
    """One self-play iteration."""

    beta: PositiveFloat
    """Weight of the margin inside the sigmoid, on errors averaged over elements (Diffusion-DPO's convention)."""


class SftParams(StageParams):
    """Supervised fine-tuning on the real images alone."""

    objective: Literal["sft"]
    min_snr_gamma: PositiveFloat | None
    """*Experimental*: weight each image's error by min(snr, gamma) / snr, or (snr + 1) under v-prediction, so that early
    timesteps do not drown the others (Hang et al. 2023, arXiv:2303.09556, who take 5); null weights all alike. Refused
    for flow matching."""


class DpoParams(StageParams):
    """Diffusion-DPO on preference pairs of the data set."""

    objective: Literal["dpo"]
    beta: PositiveFloat


BaselineParams = Annotated[SftParams | DpoParams, Field(discriminator="objective")]
