"""A model as the diffusers pipeline that its base came as."""

import inspect
from typing import Any

from torch import nn

from spin.errors import ModelError
from spin.models.latent_diffusion import LatentDiffusion


def networks_by_part(model: LatentDiffusion) -> dict[str, nn.Module]:
    """The networks by their folders in the diffusers layout, without those the base does not have."""
    networks = {
        part: model.denoiser if part == model.denoiser_folder else getattr(model, part)
        for part in model.parts
    }
    return {part: network for part, network in networks.items() if network is not None}


def make_pipeline(model: LatentDiffusion) -> Any:
    """The diffusers pipeline of the model's networks, tokenizers and scheduler; they are shared, not copied.

    There is no safety checker in it: a base's own is not part of a checkpoint.
    """
    import diffusers

    given: dict[str, Any] = dict.fromkeys((*model.parts, *model.tokenizers))
    given |= networks_by_part(model)
    given |= {name: getattr(model, name) for name in model.tokenizers}
    given |= {"scheduler": _scheduler(model), "requires_safety_checker": False}
    pipeline = getattr(diffusers, model.pipeline)
    arguments = {}
    for name, parameter in inspect.signature(pipeline.__init__).parameters.items():
        if name in given:
            arguments[name] = given[name]
        elif name == "force_zeros_for_empty_prompt":
            arguments[name] = getattr(model, name)
        elif parameter.default is inspect.Parameter.empty and name != "self":
            arguments[name] = None  # a safety checker and its feature extractor
    return pipeline(**arguments)


def _scheduler(model: LatentDiffusion) -> Any:
    import diffusers

    name = str(model.scheduler_config.get("_class_name"))
    scheduler: Any = getattr(diffusers, name, None)
    known = inspect.isclass(scheduler) and issubclass(scheduler, diffusers.SchedulerMixin)
    if not known:
        raise ModelError(f"the base's scheduler must be one of diffusers', got {name}; use another base.")
    return scheduler.from_config(model.scheduler_config)
