"""Whose configuration a single file has, told by the names and shapes in it; reads its header, no weights."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spin.errors import ModelError
from spin.models.families import MARKS

_WIDTHS = {"v1": 768, "v2": 1024, "xl_base": 2048}
"""Of the text states that the denoiser attends to, by diffusers' name of the kind; `v1` is also its word for the unknown."""
_KINDS = (*_WIDTHS, "sd3", "sd35_medium", "sd35_large")
"""The kinds that can be trained here, by diffusers' names."""


def config_of(file: Path, option: str) -> str:
    """Return the hub id whose configuration diffusers would take for a single file.

    `option` is what names another one, for messages. Raises `ModelError` for a file that is not there, does not read, or
    is of no kind that is known.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, infer_diffusers_model_type

    shapes = _shapes(file)
    kind = infer_diffusers_model_type(shapes)
    width = next(
        (
            shapes[name].shape[1]
            for name in shapes
            if name.startswith("model.diffusion_model.") and name.endswith("attn2.to_k.weight")
        ),
        None,
    )
    whole = any(name.startswith(mark) for mark in MARKS.values() for name in shapes)
    if not whole or kind not in _KINDS or width != _WIDTHS.get(kind, width):
        raise ModelError(
            f"{file} must be a whole Stable Diffusion 1.x or 2.x, SDXL or SD3 for its configuration to be known, but its keys "
            f"are not those of one; name the folder or hub id whose configuration it has by {option}."
        )
    return str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])


def _shapes(file: Path) -> dict[str, Any]:
    """Tensors without memory, by name."""
    import torch

    if not file.is_file():
        raise ModelError(f"the base must be a model, but there is no file {file}; correct the path.")
    try:
        with safe_open(file, framework="pt") as weights:
            names = list(weights.keys())
            return {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} must be safetensors, but it cannot be read ({error}); fetch it again."
        ) from None
