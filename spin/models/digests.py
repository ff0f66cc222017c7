"""SHA-256 of weights, computed once per process: hashing 4 GB takes seconds, and a stage loads a base twice."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from spin.runtime.files import sha256_file

DENOISER = "denoiser_sha256"
"""In model.json: digest of the weights that training moved."""


def recorded_digest(entry: Mapping[str, Any]) -> str:
    """The digest of a denoiser in an entry of model.json, also of those written before 0.2, which called all of them UNet."""
    return str(entry[DENOISER] if DENOISER in entry else entry["unet_sha256"])


def weights_digest_of(place: Path) -> str:
    """SHA-256 of a weights file, or of a folder's safetensors files and their names (as `spin.runtime.files.sha256_tree`)."""
    if place.is_file():
        return _file_digest(place)
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")):
        digest.update(f"{path.relative_to(place).as_posix()}\0{_file_digest(path)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    return _digest_at(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_at(path: Path, size: int, mtime_ns: int) -> str:
    """A file that was written again has another size or time, and so another entry."""
    return sha256_file(path)
