"""Model repositories of the hub: what looks like one's name, and fetching it with a sentence where that fails."""

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
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        at = "" if revision is None else f" at revision {revision}"
        raise ModelError(
            f"{key} must be a folder or a model the hub has, but {source}{at} is neither here nor to be "
            f"had ({cause}); check the name, the network and HF_TOKEN."
        ) from None
    return Path(found)
