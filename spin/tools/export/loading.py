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
    as_file = (
        ""
        if base.file is not None
        else (
            " They need that base as one file, which `spin export --checkpoint outputs/checkpoints/base --format single-file` "
            "writes."
        )
    )
    return (
        f"ComfyUI reads the file from `models/loras` (node Load LoRA, strength 1), A1111 and Forge from `models/Lora` "
        f"(`<lora:{Path(place).stem}:1>` in the prompt), over the base that is named above.{as_file}"
    )


def loading_code(format_name: str, base: Base, place: str, dtype: str) -> str:
    """Python that loads the export called `place` as `pipeline`, run in the folder that it lies in."""
    family, torch_dtype = f"diffusers.{base.family.pipeline}", f"dtype={_PYTHON[dtype]}"
    here = json.dumps(place)
    part = base.family.denoiser_folder
    lines = ["import diffusers", "import torch"]
    if format_name == "pipeline":
        lines += ["", f"pipeline = {family}.from_pretrained({here}, {torch_dtype})"]
    elif format_name == "single-file":
        given = [here, f"config={_place(base.config or base.source)}", *_revision(base.revision), torch_dtype]
        lines += ["", f"pipeline = {family}.from_single_file({', '.join(given)})"]
    elif format_name == "unet":
        lines += ["", _denoiser(base, here, part, None, torch_dtype), _base(base, torch_dtype, part)]
    else:
        over = _overlay(base, torch_dtype)
        lines += [
            "",
            *over,
            _base(base, torch_dtype, part if over else None),
            f"pipeline.load_lora_weights({here})",
        ]
    if any("embedded_base(" in line for line in lines):
        lines.insert(2, "from spin.models.find import embedded_base")
    return "\n".join(lines)


def _base(base: Base, torch_dtype: str, part: str | None) -> str:
    """The base, with the denoiser of the variable `part` in place of its own."""
    given = [*_revision(base.revision), *([] if part is None else [f"{part}={part}"]), torch_dtype]
    if base.file is None:
        method, given = "from_pretrained", [_place(base.source), *given]
    else:
        method, given = (
            "from_single_file",
            [_place(base.source), f"config={_place(str(base.config))}", *given],
        )
    return f"pipeline = diffusers.{base.family.pipeline}.{method}({', '.join(given)})"


def _overlay(base: Base, torch_dtype: str) -> list[str]:
    """The denoiser that was laid over the base, or nothing."""
    if base.overlay is None or base.overlay_reference is None:
        return []
    source, revision = base.overlay_reference["source"], base.overlay_reference["revision"]
    part = base.family.denoiser_folder
    at_root = base.overlay == Path(source) or base.overlay.name != part
    return [_denoiser(base, _place(source), None if at_root else part, revision, torch_dtype)]


def _denoiser(base: Base, source: str, subfolder: str | None, revision: str | None, torch_dtype: str) -> str:
    part = base.family.denoiser_folder
    inside = [] if subfolder is None else [f"subfolder={json.dumps(subfolder)}"]
    given = [source, *inside, *_revision(revision), torch_dtype]
    return f"{part} = diffusers.{base.family.parts[part]}.from_pretrained({', '.join(given)})"


def _place(source: str) -> str:
    """A base's place as Python: the package's own, a path from the root, or a hub id."""
    if source in EMBEDDED:
        return f"str(embedded_base({json.dumps(source)}))"
    return json.dumps(str(Path(source).resolve()) if Path(source).exists() else source)


def _revision(revision: str | None) -> list[str]:
    return [] if revision is None else [f"revision={json.dumps(revision)}"]
