"""The Python of a model card: an export, loaded by diffusers over the very base that it was trained from.

All parts are loaded in the export's format, since diffusers loads text encoders in their files' and the rest in fp32.
"""

import json
from pathlib import Path

from spin.models.bases import Base
from spin.params.model import EMBEDDED

_PYTHON = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


def for_programs(format_name: str, base: Base, place: str) -> str | None:
    """Where ComfyUI, A1111 and Forge look for an export of one file; None for what they do not read."""
    if format_name == "single-file":
        return "ComfyUI reads the file from `models/checkpoints`, A1111 and Forge from `models/Stable-diffusion`."
    if format_name != "kohya":
        return None
    told = (
        "ComfyUI reads the file from `models/loras` (node Load LoRA, strength 1), A1111 and Forge from `models/Lora` "
        f"(`<lora:{Path(place).stem}:1>` in the prompt), over the base that is named above."
    )
    if base.file is not None and base.overlay is None:
        return told
    single_file = "`spin export --checkpoint outputs/checkpoints/base --format single-file`"
    return f"{told} They need that base as one file, which {single_file} writes."


def loading_code(format_name: str, base: Base, place: str, dtype: str) -> str:
    """Python that loads the export called `place` as `pipeline`, run in the folder that it lies in."""
    pipeline, part = base.family.pipeline, base.family.denoiser_folder
    here, torch_dtype = json.dumps(place), _PYTHON[dtype]
    if format_name == "pipeline":
        lines = [_assigned("pipeline", f"{pipeline}.from_pretrained", here, dtype=torch_dtype)]
    elif format_name == "single-file":
        configs = {"config": _place(base.config or base.source), "revision": _text(base.revision)}
        lines = [_assigned("pipeline", f"{pipeline}.from_single_file", here, **configs, dtype=torch_dtype)]
    elif format_name == "unet":
        lines = [_denoiser(base, here, torch_dtype, subfolder=_text(part)), _base(base, torch_dtype, part)]
    elif base.overlay is None:
        lines = [_base(base, torch_dtype)]
    else:
        lines = [_overlay(base, base.overlay, torch_dtype), _base(base, torch_dtype, part)]
    if format_name in ("lora", "kohya"):
        lines.append(f"pipeline.load_lora_weights({here})")
    imports = ["import diffusers", "import torch"]
    if any("embedded_base(" in line for line in lines):
        imports.append("from spin.models.find import embedded_base")
    return "\n".join([*imports, "", *lines])


def _base(base: Base, torch_dtype: str, replaced: str | None = None) -> str:
    """The base, with the denoiser of the variable `replaced` in place of its own."""
    given = {"revision": _text(base.revision), "dtype": torch_dtype}
    if replaced is not None:
        given[replaced] = replaced
    if base.file is not None:
        given = {"config": _place(str(base.config)), **given}
        return _assigned("pipeline", f"{base.family.pipeline}.from_single_file", _place(base.source), **given)
    variants = [variant for part, variant in base.variants().items() if part != replaced]
    given = {"variant": _text(min(variants, default=None)), **given}
    return _assigned("pipeline", f"{base.family.pipeline}.from_pretrained", _place(base.source), **given)


def _overlay(base: Base, folder: Path, torch_dtype: str) -> str:
    """The denoiser that was laid over the base, found in `folder`."""
    reference, part = base.overlay_reference or {}, base.family.denoiser_folder
    inside = folder != Path(reference["source"]) and folder.name == part
    found = {"revision": _text(reference["revision"]), "variant": _text(base.variants().get(part))}
    return _denoiser(
        base, _place(reference["source"]), torch_dtype, subfolder=_text(part) if inside else None, **found
    )


def _denoiser(base: Base, place: str, torch_dtype: str, **given: str | None) -> str:
    part = base.family.denoiser_folder
    return _assigned(part, f"{base.family.parts[part]}.from_pretrained", place, **given, dtype=torch_dtype)


def _assigned(variable: str, function: str, place: str, **given: str | None) -> str:
    """A call of diffusers' `function` with arguments in Python; those that are None are left out."""
    arguments = [place, *(f"{name}={value}" for name, value in given.items() if value is not None)]
    return f"{variable} = diffusers.{function}({', '.join(arguments)})"


def _place(source: str) -> str:
    """A base's place as Python: the package's own, a path from the root, or a hub id."""
    if source in EMBEDDED:
        return f"str(embedded_base({json.dumps(source)}))"
    return json.dumps(str(Path(source).resolve()) if Path(source).exists() else source)


def _text(value: str | None) -> str | None:
    return None if value is None else json.dumps(value)
