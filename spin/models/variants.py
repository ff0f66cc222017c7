"""Which of a network's weights files is read: the plain one, or where it is absent a variant such as fp16.

The hub's layout has STEM.safetensors, or STEM.safetensors.index.json with the shards it lists; of a variant
STEM.fp16.safetensors, or STEM.safetensors.index.fp16.json. STEM is `model` for transformers, else `diffusion_pytorch_model`.
"""

import re
from pathlib import Path

from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_WEIGHTS
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_WEIGHTS

from spin.errors import FileError, ModelError
from spin.runtime.files import read_json

PREFERRED = "fp16"
"""Of several variants."""


def variant_of(folder: Path, name: str, source: str) -> str | None:
    """The variant to read of the weights of the network `name` in `folder`; None for the plain ones, which come first.

    Raises `ModelError` naming `source` if there are no weights in safetensors that diffusers and transformers would find.
    """
    weights = (
        TRANSFORMERS_WEIGHTS if "text_encoder" in name or name == "safety_checker" else DIFFUSERS_WEIGHTS
    )
    stem = weights.removesuffix(".safetensors")
    pattern = re.compile(rf"{stem}(?:\.(\w+))?\.safetensors|{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    found = {
        match[1] or match[2]
        for path in folder.glob("*")
        if (match := pattern.fullmatch(path.name)) and (path.suffix != ".json" or _is_whole(path))
    }
    if not found:
        others = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        raise ModelError(
            f"{source} must hold {name} weights as safetensors, found none; convert the model."
            if not others
            else f"{source} must hold {name} weights as {weights}, as a variant such as {stem}.fp16.safetensors or in all "
            f"shards of an index, found {others}; save the model with `save_pretrained`, or fetch it whole."
        )
    return min(found, key=lambda variant: (variant is not None, variant != PREFERRED, variant))


def _is_whole(index: Path) -> bool:
    """Whether all shards that an index lists are beside it."""
    try:
        shards = set(read_json(index)["weight_map"].values())
    except (FileError, KeyError, TypeError, AttributeError):
        return False
    return all((index.parent / shard).is_file() for shard in shards)
