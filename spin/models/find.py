"""Where weights come from: the embedded base, a folder, a hub repository, a single file. Finds, checks nothing inside."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from spin.errors import FileError, ModelError
from spin.params.model import EMBEDDED
from spin.runtime.files import read_json
from spin.runtime.hub import cached, fetch, is_hub_id

_UNREAD = ["*non_ema*", "safety_checker/*", "*.onnx*"]
_WEIGHTS = ("safetensors", "json")
_HALF = ["*.fp16.*", "*.fp16-*"]
"""Fetched only for a network that has no other weights."""
HUB_EXTRAS = [*_UNREAD, *_HALF]
"""What a repository may have beside, and is not read."""


class Found(NamedTuple):
    """A folder in diffusers layout, or of one network."""

    folder: Path
    revision: str | None
    """The hub's commit; None for a folder of the user's, whose weights are known by their digest."""


def embedded_base(source: str = "embedded") -> Path:
    """Folder of a base model that comes with the package."""
    return Path(str(resources.files("spin.toy") / "assets" / EMBEDDED[source]))


def find_pipeline(key: str, source: str, revision: str | None, configs_only: bool = False) -> Found:
    """Find a model in diffusers layout: one of `EMBEDDED`, a folder, or a hub id at a revision (fetched if it is not here).

    `key` is the parameter that names it, for messages. Raises `ModelError` if there is none.
    """
    if source in EMBEDDED:
        return Found(_without_revision(key, embedded_base(source), revision), None)
    if Path(source).is_dir():
        return Found(_without_revision(key, Path(source), revision), None)
    _check_hub_id(key, source, "'embedded', a folder in diffusers layout, a .safetensors file or a hub id")
    index = _from_hub(key, source, revision, ["model_index.json"])
    parts = _parts(read_config(index / "model_index.json", source))
    folder = _from_hub(key, source, index.name, pipeline_files(parts, configs_only))
    bare = [part for part in parts if not configs_only and _lacks_weights(folder / part)]
    if bare:
        wanted = [f"{part}/*.{end}" for part in bare for end in _WEIGHTS]
        _from_hub(key, source, index.name, wanted, half=True)
    return Found(folder, folder.name)


def pipeline_files(parts: Sequence[str], configs_only: bool = False) -> list[str]:
    """Patterns of the files of a repository in diffusers layout that are read, of these parts."""
    weights = [] if configs_only else ["*.safetensors"]
    return [f"{part}/{pattern}" for part in parts for pattern in ("*.json", "*.txt", "*.model", *weights)]


def _parts(index: Mapping[str, Any]) -> list[str]:
    return [part for part, entry in index.items() if isinstance(entry, list) and entry[0]]


def pipeline_here(source: str, revision: str | None, configs_only: bool = False) -> Path | None:
    """Return the folder of a hub's pipeline if all of it that is read is in the cache; asks nobody, checks no bytes."""
    folder = cached(source, revision, ["model_index.json"])
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    parts = [
        part for part in _parts(read_config(folder / "model_index.json", source)) if part != "safety_checker"
    ]
    if cached(source, folder.name, pipeline_files(parts, configs_only), HUB_EXTRAS) is None:
        return None
    networks = [part for part in parts if (folder / part / "config.json").is_file()]
    whole = all(any((folder / part).glob("*.json")) for part in parts)
    whole = whole and (configs_only or all(_weights_here(folder / part) for part in networks))
    return folder if whole else None


def denoiser_here(source: str, revision: str | None) -> Path | None:
    """The same for a repository that holds one denoiser, at its root or in a folder."""
    folder = cached(source, revision, denoiser_files("unet"), HUB_EXTRAS)
    folder = folder or cached(source, revision, denoiser_files("transformer"), HUB_EXTRAS)
    places = [folder / part for part in ("unet", "transformer", "")] if folder else []
    found = next((place for place in places if (place / "config.json").is_file()), None)
    return folder if found is not None and _weights_here(found) else None


def _weights_here(folder: Path) -> bool:
    """Whether a network's folder has its safetensors in one file, or each shard that an index lists; a variant's too."""
    if any(each.is_file() and "-of-" not in each.name for each in folder.glob("*.safetensors")):
        return True
    indices = folder.glob("*.safetensors.index*.json")
    listed = [set(read_config(index, str(folder)).get("weight_map", {}).values()) for index in indices]
    return any(all((folder / shard).is_file() for shard in shards) for shards in listed)


def find_single_file(source: str, revision: str | None) -> Path | None:
    """Return the path if `source` is a single weights file, None if it is something else.

    Raises `ModelError` for a pickle, for a file that is not there, or for a revision, which a file does not have.
    """
    path = Path(source)
    if path.suffix != ".safetensors" or path.is_dir():
        return None
    if not path.is_file():
        raise ModelError(f"base.source must be a model, but there is no file {source}; correct the path.")
    return _without_revision("base", path, revision)


def find_denoiser(key: str, source: str, revision: str | None, part: str) -> Found:
    """Find a repository or folder that holds one denoiser, at its root or in the folder `part`.

    Returns the folder with config.json; raises `ModelError` if there is none.
    """
    if Path(source).is_dir():
        root, commit = _without_revision(key, Path(source), revision), None
    else:
        _check_hub_id(f"{key}.source", source, "a folder or a hub id")
        root = _from_hub(f"{key}.source", source, revision, denoiser_files(part))
        commit = root.name
    for folder in (root / part, root):
        if (folder / "config.json").is_file():
            if commit is not None and _lacks_weights(folder):
                prefix = "" if folder == root else f"{part}/"
                wanted = [f"{prefix}diffusion_pytorch_model*.{end}" for end in _WEIGHTS]
                _from_hub(f"{key}.source", source, commit, wanted, half=True)
            return Found(folder, commit)
    raise ModelError(
        f"{key}.source must hold a denoiser's config.json at its root or in {part}/, found none in {source}; "
        "name a repository that has one."
    )


def denoiser_files(part: str) -> list[str]:
    """Patterns of the files of a repository with one denoiser that are read."""
    files = ["config.json", "*.safetensors.index.json", "diffusion_pytorch_model*.safetensors"]
    return [*files, *(f"{part}/{file}" for file in files), "scheduler/*.json"]


def _without_revision(key: str, path: Path, revision: str | None) -> Path:
    if revision is not None:
        raise ModelError(
            f"{key.removesuffix('.config')}.revision must be null for a folder or file, got {revision} with {path}; its weights are "
            "recorded by their digest, so set the revision to null."
        )
    return path


def _check_hub_id(key: str, source: str, expected: str) -> None:
    if not is_hub_id(source) or Path(source).exists():
        raise ModelError(
            f"{_source_key(key)} must be {expected} owner/name, but there is no folder {source}; correct the path."
        )


def _source_key(key: str) -> str:
    return "base.source" if key == "base" else key


def _lacks_weights(folder: Path) -> bool:
    """Whether this is a network's folder, by its config, without weights."""
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))


def _from_hub(
    key: str, source: str, revision: str | None, patterns: Sequence[str], half: bool = False
) -> Path:
    return fetch(_source_key(key), source, revision, patterns, _UNREAD if half else HUB_EXTRAS)


def read_config(path: Path, source: str) -> dict[str, Any]:
    """Read a config of a model; raises `ModelError` naming `source` if it is missing or no JSON object."""
    if not path.is_file():
        raise ModelError(
            f"{source} must be a model in diffusers layout, but it has no {path.parent.name}/{path.name}; "
            "save it with `pipeline.save_pretrained`."
        )
    try:
        config = read_json(path)
    except FileError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{source} must hold {path.name} as JSON, but it does not parse; save it again.")
    return config
