"""The schema of params.yaml. Every key is required and none has a default: the file is the only place that holds values.

Types are strict, because PyYAML reads `1e-5` as text. `load_params` turns any breach into one sentence:
the dotted name, the rule, the value that came and what to do.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spin.errors import ParamsError
from spin.params_errors import describe

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
SchedulerName = Literal["ddim", "ddpm", "pndm", "euler", "dpmsolver++"]


class Section(BaseModel):
    """A part of params.yaml: unknown keys and wrong types are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseParams(Section):
    """The pretrained model theta_0."""

    source: Annotated[str, Field(min_length=1)]
    """`embedded`, a folder in diffusers layout, or a hub id such as `stable-diffusion-v1-5/stable-diffusion-v1-5`."""
    revision: str | None
    """Commit of the hub repository; null for a folder. What was resolved is recorded in model.json."""


class ToyData(Section):
    """Scenes rendered by the embedded world, with winners as imperfect as Pick-a-Pic's."""

    kind: Literal["toy"]
    num_train: PositiveInt
    """Training prompts, each with one winner (and one loser for Diffusion-DPO); the world has 512."""
    num_val: PositiveInt
    num_test: PositiveInt
    """Held-out prompts, of object pairs that the base has never seen together; the world has 256."""
    max_severity: Probability
    """Degradation of winners and losers is drawn from [0, this]; 0 makes every winner perfect."""
    label_accuracy: Probability
    """Share of pairs whose winner is the less degraded image, as human labels are right only mostly."""


class FolderData(Section):
    """A folder of images with metadata.csv or metadata.jsonl (columns file_name, text) or sidecar .txt captions."""

    kind: Literal["folder"]
    path: Annotated[str, Field(min_length=1)]
    num_val: PositiveInt
    """Captions held out for previews."""
    num_test: PositiveInt
    """Captions held out for evaluation; the rest trains."""


DataParams = Annotated[ToyData | FolderData, Field(discriminator="kind")]


class CacheParams(Section):
    """Latents and text embeddings, computed once per data set and base."""

    batch_size: PositiveInt
    """Images, or captions, through the encoders at a time; changes speed and memory only."""


class SamplerParams(Section):
    """How an image is drawn from a model."""

    scheduler: SchedulerName
    num_inference_steps: Annotated[int, Field(gt=0, lt=1000)]
    guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Classifier-free guidance; 1.0 means none and costs half as much."""
    eta: Probability
    """DDIM's stochasticity: 0 deterministic, 1 as DDPM. Must be 0 for the other schedulers."""
    batch_size: PositiveInt
    """Images drawn at a time; the images do not depend on it."""

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
    shard_size: PositiveInt
    """Images in one resumable shard: what a killed run loses at most."""


class TrainingParams(Section):
    """What every training stage shares."""

    batch_size: PositiveInt
    """Pairs (SFT: images) per optimizer update, over all devices and micro-batches."""
    micro_batch_size: PositiveInt
    """Pairs through the network at a time on one device; changes memory and speed, not the method."""
    precision: Literal["fp32", "bf16"]
    """Of the forward passes. Errors, losses and the optimizer stay in fp32."""
    adam_betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    adam_eps: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    """Global L2 norm above which gradients are scaled down."""
    lr_scheduler: Literal["constant", "linear", "cosine"]
    """After the warm-up: hold, or decay to 0 by the last step."""
    caption_dropout: Probability
    """Share of captions replaced by the empty one, which keeps classifier-free guidance trained."""
    sample_posterior: bool
    """Draw training latents from the VAE's posterior (as the peers do) or take its mean."""
    gradient_checkpointing: bool
    checkpoint_every: PositiveInt
    """Optimizer updates between the step checkpoints a killed run resumes from."""

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> "TrainingParams":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size must be a multiple of micro_batch_size, got {self.batch_size} and {self.micro_batch_size}"
            )
        return self


class StageParams(Section):
    """One training stage, starting from and compared with the checkpoint `prev`."""

    prev: str
    """`base` or the name of an iteration: the start of the player and, frozen, its reference."""
    learning_rate: PositiveFloat
    num_steps: PositiveInt
    """Optimizer updates."""
    warmup_steps: Annotated[int, Field(ge=0)]


class IterationParams(StageParams):
    """One self-play iteration."""

    beta: PositiveFloat
    """Weight of the margin inside the sigmoid, on errors averaged over elements (Diffusion-DPO's convention)."""


class SftParams(StageParams):
    """Supervised fine-tuning on the real images alone."""

    objective: Literal["sft"]


class DpoParams(StageParams):
    """Diffusion-DPO on preference pairs of the data set."""

    objective: Literal["dpo"]
    beta: PositiveFloat


BaselineParams = Annotated[SftParams | DpoParams, Field(discriminator="objective")]


class EvaluateParams(SamplerParams):
    """The protocol: the same for every model, printed under every table."""

    models: Annotated[list[str], Field(min_length=1)]
    """base, every baseline and every iteration, in the order of the tables."""
    references: Annotated[list[Literal["clean"]], Field(max_length=1)]
    """Levels to read the tables against, no models. `clean`: the embedded world's perfect images through the VAE."""
    prompt_set: Literal["val", "test"]
    images_per_prompt: PositiveInt
    reduction: Literal["mean", "median", "best"]
    """How the images of one prompt become one number: best keeps the image with the highest average score."""
    seed: int
    """Same (prompt, seed) for every model."""


class ScorerParams(Section):
    """One reward model."""

    source: str
    """`embedded`, `hub` (the published weights), a folder, or for an oracle `toy`."""


class TableParams(Section):
    """Statistics and how they are shown."""

    average_of: Annotated[list[str], Field(min_length=1)]
    """Scorers whose unweighted mean is the Average; also what `champion` is chosen by."""
    over: Annotated[list[str], Field(min_length=1)]
    """Models to compute winning rates over."""
    bootstrap_samples: PositiveInt
    confidence: Annotated[float, Field(gt=0, lt=1)]
    grid_prompts: PositiveInt
    """Rows of the same-seed grid."""


class TrackingParams(Section):
    """Names under which MLflow keeps the runs; changing them reruns nothing."""

    experiment: str
    registered_model: str


class Params(Section):
    """All of params.yaml."""

    seed: int
    """Of the method: data order, noise, opponents. Another seed is another run of the same experiment."""
    resolution: PositiveInt
    """Side of the square training and sampled images, in pixels."""
    base: BaseParams
    data: DataParams
    cache: CacheParams
    opponents: OpponentParams
    training: TrainingParams
    iterations: Annotated[dict[Name, IterationParams], Field(min_length=1)]
    baselines: dict[Name, BaselineParams]
    evaluate: EvaluateParams
    scorers: Annotated[dict[Name, ScorerParams], Field(min_length=1)]
    tables: TableParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        _check_chain(self)
        _check_names(self)
        return self

    def stage(self, name: str) -> IterationParams | SftParams | DpoParams:
        """Return the training stage called `name`; raises `ParamsError` if there is none."""
        try:
            return self.iterations[name] if name in self.iterations else self.baselines[name]
        except KeyError:
            known = ", ".join([*self.iterations, *self.baselines])
            raise ParamsError(f"there is no training stage named {name}; params.yaml has {known}.") from None


def _check_chain(params: Params) -> None:
    """Every `prev` exists and following it ends at the base."""
    stages: dict[str, StageParams] = {
        f"iterations.{name}": stage for name, stage in params.iterations.items()
    }
    stages |= {f"baselines.{name}": stage for name, stage in params.baselines.items()}
    for where, stage in stages.items():
        seen = [where.split(".")[1]]
        prev = stage.prev
        while prev != "base":
            if prev not in params.iterations:
                known = ", ".join(["base", *params.iterations])
                raise ValueError(f"{where}.prev must be one of {known}, got {prev}; correct the name")
            if prev in seen:
                circle = " -> ".join([*seen, prev])
                raise ValueError(f"{where}.prev must lead back to base, got the circle {circle}; break it")
            seen.append(prev)
            prev = params.iterations[prev].prev


def _check_names(params: Params) -> None:
    """Model names are unique, and evaluation names the models and scorers that exist."""
    both = set(params.iterations) & set(params.baselines) | (
        {"base"} & {*params.iterations, *params.baselines}
    )
    if both:
        raise ValueError(
            f"the name {sorted(both)[0]} must be given to one model only; rename an iteration or baseline"
        )
    models = ["base", *params.baselines, *params.iterations]
    if sorted(params.evaluate.models) != sorted(models):
        raise ValueError(
            f"evaluate.models must name {', '.join(models)}, got {', '.join(params.evaluate.models)}"
        )
    if params.data.kind == "toy" and params.resolution != 32:
        raise ValueError(
            f"resolution must be 32 with data.kind toy, got {params.resolution}; that world is 32 pixels wide"
        )
    if params.resolution % 8:
        raise ValueError(
            f"resolution must be a multiple of 8, got {params.resolution}; the autoencoder halves it thrice"
        )
    if "clean" in models:
        raise ValueError(
            "the name clean must be left to the reference level; rename the iteration or baseline"
        )
    if params.evaluate.references and params.data.kind != "toy":
        raise ValueError(
            "evaluate.references must be [] unless data.kind is toy; only that world knows perfect images"
        )
    for key, known, given in (
        ("tables.over", params.evaluate.models, params.tables.over),
        ("tables.average_of", params.scorers, params.tables.average_of),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"{key} must name some of {', '.join(known)}, got {name}; correct the name")


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file; raises `ParamsError` with one sentence on the first breach."""
    if not path.is_file():
        raise ParamsError(f"{path} must be a parameter file, found none; copy one of profiles/ to it.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ParamsError(f"{path} must be YAML, but it does not parse: {detail}") from None
    if not isinstance(raw, dict):
        raise ParamsError(
            f"{path} must hold a mapping of parameters, got {type(raw).__name__}; see profiles/."
        )
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(f"{path}: {describe(error, Params)}") from None
