"""Which family a model is of, and whether all of it fits together; reads configs, loads no weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spin.errors import ModelError
from spin.models.find import read_config
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.sd3 import StableDiffusion3
from spin.models.sdxl import StableDiffusionXL
from spin.models.stable_diffusion import StableDiffusion

_BENT_GRIDS = (
    "use_dynamic_shifting",
    "shift_terminal",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)
"""Settings of a flow-matching scheduler under which noise levels are not those of `NoiseSchedule`."""
FAMILIES: tuple[type[LatentDiffusion], ...] = (StableDiffusion, StableDiffusionXL, StableDiffusion3)


def family_of(folder: Path, source: str) -> type[LatentDiffusion]:
    """The family of a model in diffusers layout; raises `ModelError` naming `source` for any other."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{source} must be a model in diffusers layout, but it has no model_index.json; "
            "save it with `pipeline.save_pretrained`."
        )
    pipeline = read_config(index, source).get("_class_name")
    for family in FAMILIES:
        if pipeline == family.pipeline:
            return family
    known = ", ".join(family.pipeline for family in FAMILIES)
    raise ModelError(f"{source} must be one of {known}, got {pipeline}; use such a base.")


def parts_present(family: type[LatentDiffusion], folder: Path, source: str) -> list[str]:
    """Folders of the networks a model has: all of its family's, but for optional ones it does without."""
    index = read_config(folder / "model_index.json", source)
    return [
        part
        for part in family.parts
        if part not in family.optional_parts or (index.get(part) or [None])[0] is not None
    ]


def prediction_type_of(family: type[LatentDiffusion], scheduler: Mapping[str, Any], source: str) -> str:
    """`epsilon`, `v_prediction` or `flow`; raises `ModelError` for a scheduler that is not of the family."""
    flow = str(scheduler.get("_class_name", "")).startswith("FlowMatch")
    prediction = "flow" if flow else str(scheduler.get("prediction_type", "epsilon"))
    allowed = ("flow",) if family is StableDiffusion3 else ("epsilon", "v_prediction")
    if prediction not in allowed:
        raise ModelError(
            f"{source} must predict {' or '.join(allowed)}, got {prediction}; use such a base, with its scheduler."
        )
    return prediction


def check_base(family: type[LatentDiffusion], folder: Path, source: str) -> None:
    """Raise `ModelError` unless the configs in `folder` make one text-to-image model of the family."""
    # The scheduler: a prediction type we know, noise levels we compute alike.
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json", source)
    prediction_type_of(family, scheduler, source)
    for setting in _BENT_GRIDS:
        if str(scheduler.get("_class_name", "")).startswith("FlowMatch") and scheduler.get(setting):
            raise ModelError(
                f"{source} must shift its noise levels by a constant alone, got a scheduler with {setting} "
                f"{scheduler[setting]}; use a base such as Stable Diffusion 3."
            )

    # The autoencoder: its latents are what the denoiser takes, scaled by one factor.
    vae = read_config(folder / "vae" / "config.json", source)
    channels = int(vae.get("latent_channels", 4))
    denoiser = read_config(folder / family.denoiser_folder / "config.json", source)
    if int(denoiser.get("in_channels", 4)) != channels:
        raise ModelError(
            f"{source} must take the {channels} channels of its VAE's latents, got a {family.denoiser_folder} with "
            f"{denoiser['in_channels']}, as for inpainting; use a text-to-image base."
        )
    if vae.get("latents_mean") is not None:
        raise ModelError(
            f"{source} must scale its latents by scaling_factor alone, got a VAE with latents_mean; use another base."
        )


def check_denoiser(
    family: type[LatentDiffusion], folder: Path, source: str, base_config: Mapping[str, Any]
) -> None:
    """Raise `ModelError` unless the denoiser in `folder` has the class and the shapes of the base's.

    A repository that comes with a scheduler beside its denoiser also tells how it predicts; `base_config` may hold
    that of the base under `prediction_type`.
    """
    config = read_config(folder / "config.json", source)
    for name in ("_class_name", *family.architecture):
        if config.get(name) != base_config.get(name):
            raise ModelError(
                f"{source} must fit the base, whose {family.denoiser_folder} has {name.lstrip('_')} "
                f"{base_config.get(name)}, got {config.get(name)}; use a checkpoint of the base's family."
            )
    scheduler = folder.parent / "scheduler" / "scheduler_config.json"
    if folder.name == family.denoiser_folder and scheduler.is_file():
        prediction = prediction_type_of(family, read_config(scheduler, source), source)
        if prediction != base_config["prediction_type"]:
            raise ModelError(
                f"{source} must predict {base_config['prediction_type']} as the base does, got {prediction}; "
                "use a checkpoint that was trained from this base."
            )


MARKS = {
    StableDiffusion3.family: "model.diffusion_model.joint_blocks.",
    StableDiffusionXL.family: "conditioner.embedders.",
    StableDiffusion.family: "cond_stage_model.",
}
"""The beginning of a name that only a family's single files have."""


def check_single_file(
    family: type[LatentDiffusion], file: Path, config_source: str, base_config: Mapping[str, Any]
) -> None:
    """Raise `ModelError` unless the names and widths in a single file are those of the family and config."""
    # Read names and widths, no weights.
    try:
        with safe_open(file, framework="pt") as weights:
            names = list(weights.keys())
            found = next(
                (name for name, mark in MARKS.items() if any(n.startswith(mark) for n in names)), None
            )
            widths = [
                weights.get_slice(name).get_shape()[1]
                for name in names
                if name.startswith("model.diffusion_model.") and name.endswith("attn2.to_k.weight")
            ]
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} must be safetensors, but it cannot be read ({error}); fetch it again."
        ) from None
    if found != family.family:
        raise ModelError(
            f"base.source {file} must hold a whole {family.family} model as base.config {config_source} says, "
            f"got {found or 'none of the known families'}; name a config of the file's family."
        )
    expected = base_config.get("cross_attention_dim")
    if widths and isinstance(expected, int) and widths[0] != expected:
        raise ModelError(
            f"base.source {file} must have the cross_attention_dim {expected} of base.config {config_source}, "
            f"got {widths[0]}; name a config of the file's own model."
        )
