"""A cache of the hub's on disk, as its client lays it out: blobs named by their bytes, a snapshot of links to them."""

import hashlib
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def offline_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """An empty cache in `folder`, with the network gone."""
    import huggingface_hub.constants

    folder.mkdir(exist_ok=True)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache: Path, repository: str, files: dict[str, bytes], kind: str = "model") -> Path:
    """Put a repository's files into the cache, the large ones as the hub's large storage names them."""
    place = cache / f"{kind}s--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "blobs").mkdir(exist_ok=True)
    for name, data in files.items():
        large = name.endswith((".safetensors", ".pt", ".pth"))
        digest = hashlib.sha256(data) if large else hashlib.sha1(f"blob {len(data)}\0".encode() + data)
        blob = place / "blobs" / digest.hexdigest()
        blob.write_bytes(data)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    return snapshot


def put_folder(cache: Path, repository: str, folder: Path) -> Path:
    """Put all files below a folder into the cache as a repository."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return put(cache, repository, files)
