"""The export formats. Each is written beside its place and renamed into it once it is whole.

pipeline      PATH/           everything `DiffusionPipeline.from_pretrained` needs
unet          PATH/unet/      the denoiser alone, as trained SPIN checkpoints are published (SD3: transformer/)
lora          PATH/           pytorch_lora_weights.safetensors, for `pipeline.load_lora_weights`
single-file   PATH            one .safetensors in the original layout, and PATH with .md for the model card
kohya         PATH            a LoRA as one .safetensors under kohya's names, and PATH with .md for the model card
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spin.errors import ModelError
from spin.models.bases import Base, find_base
from spin.models.checkpoint import load_denoiser, load_model
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.lora import LORA_FILE, read_adapter, write_adapter_file
from spin.models.reference import read_reference
from spin.runtime.devices import DTYPES
from spin.runtime.files import replacing_dir, replacing_file, write_json
from spin.tools.export.card import describe, model_card, shareable
from spin.tools.export.file_progress import watching
from spin.tools.export.kohya import check_kohya, write_kohya
from spin.tools.export.pipeline import make_pipeline
from spin.tools.export.single_file import check_single_file, is_exported_file, write_single_file

logger = logging.getLogger(__name__)

FORMATS = ("pipeline", "unet", "lora", "single-file", "kohya")
FILE_FORMATS = ("single-file", "kohya")
"""Those that are one file."""
EXPORT_FILE = "export.json"
"""In every exported folder; `--force` replaces no folder without it."""


def export_checkpoint(
    checkpoint: Path, format_name: str, out: Path, dtype: str, force: bool, root: Path = Path()
) -> Path:
    """Write the checkpoint to `out` in one of `FORMATS`, weights in `dtype` (fp32, bf16, fp16); return where that is.

    The model card tells the parameters of the training if the project `root` has a dvc.lock that records it.
    Raises `ModelError` if the format is not for this checkpoint, or if `out` may not be replaced.
    """
    reference = read_reference(checkpoint)
    base = find_base(reference.get("base", reference))
    check_format(format_name, checkpoint, base.family)
    out = Path(os.path.realpath(out))  # what NEW/../PLACE is must not change when NEW is made
    check_place(out, format_name, force)
    card = describe(checkpoint, format_name, dtype, root)
    readme = model_card(card, base, out.name)
    logger.info("reading %s", checkpoint)
    if format_name in FILE_FORMATS:
        with replacing_file(out) as temporary:
            _FILE_WRITERS[format_name](temporary, checkpoint, base, DTYPES[dtype], shareable(card))
        with replacing_file(out.with_suffix(".md")) as temporary:
            temporary.write_text(readme, encoding="utf-8")
        return out
    with replacing_dir(out) as folder:
        _WRITERS[format_name](folder, checkpoint, base.family, DTYPES[dtype])
        (folder / "README.md").write_text(readme, encoding="utf-8")
        write_json(folder / EXPORT_FILE, card)
    return out


def check_format(format_name: str, checkpoint: Path, family: type[LatentDiffusion]) -> None:
    """Raise `ModelError` unless the checkpoint, whose base is of `family`, can be written so."""
    if format_name == "single-file":
        check_single_file(family)
    if format_name == "kohya":
        check_kohya(family)
    if format_name in ("lora", "kohya") and "lora" not in read_reference(checkpoint):
        raise ModelError(
            f"--format {format_name} needs a checkpoint trained with training.lora, but {checkpoint} was not; "
            "use --format unet, or train with training.lora."
        )


def _write_pipeline(
    folder: Path, checkpoint: Path, family: type[LatentDiffusion], dtype: torch.dtype
) -> None:
    model = load_as(checkpoint, dtype)
    with watching(folder, f"export {checkpoint.name}", model.networks()):
        make_pipeline(model).save_pretrained(folder, safe_serialization=True)


def _write_denoiser(
    folder: Path, checkpoint: Path, family: type[LatentDiffusion], dtype: torch.dtype
) -> None:
    denoiser: Any = _rounded(load_denoiser(checkpoint, dtype=_reading(checkpoint, dtype)), checkpoint, dtype)
    with watching(folder, f"export {checkpoint.name}", [denoiser]):
        denoiser.save_pretrained(folder / family.denoiser_folder, safe_serialization=True)


def _write_lora(folder: Path, checkpoint: Path, family: type[LatentDiffusion], dtype: torch.dtype) -> None:
    record = read_reference(checkpoint)["lora"]
    tensors = read_adapter(checkpoint, record, family.denoiser_folder)
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    write_adapter_file(folder / LORA_FILE, cast, record, family.denoiser_folder)


def _write_single_file(
    path: Path, checkpoint: Path, base: Base, dtype: torch.dtype, card: Mapping[str, Any]
) -> None:
    model = load_as(checkpoint, dtype)
    with watching(path, f"export {checkpoint.name}", model.networks()):
        write_single_file(path, model, card)


_FILE_WRITERS = {"single-file": _write_single_file, "kohya": write_kohya}
_WRITERS = {"pipeline": _write_pipeline, "unet": _write_denoiser, "lora": _write_lora}


def check_place(out: Path, format_name: str, force: bool) -> None:
    """Raise `ModelError` unless `out` is free, or `force` is given and it is an earlier export."""
    single = format_name in FILE_FORMATS
    if single and out.suffix != ".safetensors":
        raise ModelError(
            f"--out must end in .safetensors for --format {format_name}, got {out}; name a file."
        )
    if not single and out.suffix == ".safetensors":
        raise ModelError(f"--out must be a folder for --format {format_name}, got {out}; name a folder.")
    if single and (card := out.with_suffix(".md")).exists() and not out.exists():
        raise ModelError(f"--out must leave {card} for the model card, but that exists; name another file.")
    if not out.exists() or (not single and out.is_dir() and not any(out.iterdir())):
        return
    exported = out.is_file() and is_exported_file(out) if single else (out / EXPORT_FILE).is_file()
    if not exported:
        raise ModelError(f"--out must be new or an earlier export, but {out} is neither; name another place.")
    if not force:
        raise ModelError(f"--out must be new, but {out} exists; name another place or give --force.")


def load_as(checkpoint: Path, dtype: torch.dtype) -> LatentDiffusion:
    """Load all networks in `dtype`, the VAE too, which `load_model` keeps in fp32 where it would overflow in use."""
    model = load_model(checkpoint, dtype=_reading(checkpoint, dtype))
    for network in model.networks():
        _rounded(network, checkpoint, dtype)
    return model


def _reading(checkpoint: Path, dtype: torch.dtype) -> torch.dtype:
    """An adapter is added to the weights in fp32, before they are rounded."""
    return torch.float32 if "lora" in read_reference(checkpoint) else dtype


def _rounded(network: torch.nn.Module, checkpoint: Path, dtype: torch.dtype) -> torch.nn.Module:
    torch.nn.Module.to(network, dtype)  # diffusers' own `to` warns of layers these families have not
    if not all(tensor.isfinite().all() for tensor in network.parameters()):
        raise ModelError(
            f"the weights of {checkpoint} must be finite numbers, but some are not in {dtype}; use --dtype bf16 or "
            "fp32, or train again if they are not in fp32 either."
        )
    return network
