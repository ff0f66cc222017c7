"""Repositories of the hub: what looks like one's name, what of them is in the cache, and fetching them, with a sentence
where that fails."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from spin.errors import ModelError


def is_hub_id(source: str) -> bool:
    """Whether `source` looks like owner/name, and not like a path or a file of weights."""
    return (
        source.count("/") == 1
        and not source.startswith((".", "/", "~"))
        and not source.endswith((".safetensors", "/"))
    )


def fetch(
    key: str, source: str, revision: str | None, patterns: Sequence[str], without: Sequence[str] = ()
) -> Path:
    """Return the folder of a repository's files that match `patterns`, fetched unless they are here.

    `key` is the parameter that names it, for messages. Raises `ModelError` if it is not to be had.
    """
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            source, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(without) or None
        )
    except Exception as error:
        at = "" if revision is None else f" at revision {revision}"
        raise ModelError(
            f"{key} must be a folder or a model the hub has, but {source}{at} is neither here nor to be "
            f"had ({first_line(error)}); check the name, the network and HF_TOKEN."
        ) from None
    return Path(found)


def cached(
    source: str,
    revision: str | None,
    patterns: Sequence[str],
    without: Sequence[str] = (),
    kind: str = "model",
) -> Path | None:
    """Return the folder of a repository in the hub's cache without asking the hub.

    None if there is none, or if the cache knows of a file that matches `patterns` and is not in it. `kind` is `model` or
    `dataset`.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                repo_type=kind,
                allow_patterns=list(patterns),
                ignore_patterns=list(without) or None,
                local_files_only=True,
            )
        )
    except Exception:  # not there, or not all of it: the client has a name for each
        return None


def sizes_on_hub(
    source: str,
    revision: str | None,
    patterns: Sequence[str],
    without: Sequence[str] = (),
    kind: str = "model",
) -> dict[str, int]:
    """Return the bytes of a repository's files that match `patterns`; downloads none of them.

    Raises whatever the hub's client does where the repository cannot be reached, is not there or may not be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi()
    info = api.repo_info(source, revision=revision, repo_type=kind, timeout=10, files_metadata=True)
    if getattr(info, "gated", False):
        api.auth_check(source, repo_type=kind)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    chosen = filter_repo_objects(sizes, allow_patterns=list(patterns), ignore_patterns=list(without) or None)
    return {name: sizes[name] for name in chosen}


def torn_file(folder: Path) -> Path | None:
    """Return a file of a cached repository that holds other bytes than its name says, if there is one.

    The cache names the bytes of a file by their SHA-256, or by git's SHA-1 where the file is small; a folder that links to
    no such names passes.
    """
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or not file.is_symlink():
            continue
        blob = file.resolve()
        if not blob.is_file() or not _is_named_by_its_bytes(blob):
            return blob
    return None


def _is_named_by_its_bytes(blob: Path) -> bool:
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", blob.name):
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with blob.open("rb") as stream:
        while part := stream.read(1 << 22):
            digest.update(part)
    return digest.hexdigest() == blob.name


def first_line(error: Exception) -> str:
    """What an error of the hub's client says first."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
