"""SHA-256 of weights and configs, computed once per process."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spin.runtime.sums import file_digest

DENOISER = "denoiser_sha256"
"""In model.json: digest of the weights that training moved."""
CONFIGS = "configs_sha256"
"""In model.json: digest of what the base says beside its weights."""
_CONFIGS = ("*.json", "*.txt", "*.model")


def recorded_digest(entry: Mapping[str, Any]) -> str:
    """The digest of a denoiser in an entry of model.json, also of those written before 0.2, which called all of them UNet."""
    return str(entry[DENOISER] if DENOISER in entry else entry["unet_sha256"])


def weights_digest_of(place: Path) -> str:
    """SHA-256 of a weights file, or of a folder's safetensors files and their names (as `spin.runtime.files.sha256_tree`)."""
    if place.is_file():
        return file_digest(place)
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")):
        digest.update(f"{path.relative_to(place).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def configs_digest_of(folder: Path, parts: Iterable[str], overlay: Path | None = None) -> str:
    """SHA-256 of what a base's folder says beside its weights: configs, scheduler and tokenizers, by name.

    With the config of the denoiser in the folder `overlay`, if one is laid over it.
    """
    digest = hashlib.sha256()
    found = [folder / "model_index.json"]
    found += [path for part in parts for kind in _CONFIGS for path in (folder / part).glob(kind)]
    for path in sorted(path for path in found if path.is_file() and ".index." not in path.name):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    if overlay is not None:
        digest.update(f"overlay\0{file_digest(overlay / 'config.json')}\n".encode())
    return digest.hexdigest()
