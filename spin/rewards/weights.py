"""Where a reward model's files come from: the package, the hub, or a folder; and how its weights are read.

Whatever the origin, a scorer sees the same thing, a `Source`: a mapping of file names to paths. So the tiny
embedded models, the published ones and a user's folder load through the same code.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spin.errors import ScoreError
from spin.rewards.names import EMBEDDED, HUB
from spin.runtime.files import read_json, sha256_file

CARD = "scorer.json"
"""Optional file of a folder: {"version": words for the tables, and constants that its scorer documents}."""


@dataclass(frozen=True)
class Source:
    """The files of one reward model, by the names its layout gives them."""

    scorer: str
    origin: str
    """For messages: a folder, or the hub repositories with their commits."""
    files: Mapping[str, Path]

    def get(self, *names: str) -> Path | None:
        """Return the first of these files that is there."""
        return next((self.files[name] for name in names if name in self.files), None)

    def need(self, *names: str) -> Path:
        """Return the first of these files that is there; raises `ScoreError` if none is."""
        path = self.get(*names)
        if path is None:
            raise ScoreError(
                f"{self.scorer} needs {' or '.join(names)} in {self.origin}, found"
                f" {', '.join(sorted(self.files)) or 'no file'}; complete the folder or choose another source."
            )
        return path

    def json(self, *names: str) -> dict[str, Any]:
        """Read one of these files as a JSON object; raises `ScoreError` if there is none or it does not parse."""
        path = self.need(*names)
        try:
            value = read_json(path)
        except (OSError, ValueError) as error:
            raise ScoreError(
                f"{path} must be JSON, but it does not parse ({error}); copy it again."
            ) from None
        if not isinstance(value, dict):
            raise ScoreError(f"{path} must hold a JSON object, got {type(value).__name__}; copy it again.")
        return value

    def card(self) -> dict[str, Any]:
        """The folder's scorer.json, or nothing."""
        return self.json(CARD) if CARD in self.files else {}

    def version(self, published: str) -> str:
        """Words for the tables: what the card says, or the published version and where it came from."""
        return str(self.card().get("version", f"{published}, {self.origin}"))


def open_source(scorer: str, source: str | None) -> Source:
    """Resolve `embedded`, `hub` (or None) or a folder; raises `ScoreError` with the remedy if it is not there."""
    if source is None or source == "hub":
        return _from_hub(scorer)
    folder = EMBEDDED / scorer if source == "embedded" else Path(source)
    if not folder.is_dir():
        if source == "embedded":
            known = sorted(path.name for path in EMBEDDED.glob("*") if path.is_dir())
            have = f"the package has {', '.join(known)}" if known else "run `spin toy build` to make them"
            raise ScoreError(f"there is no embedded {scorer}; {have}.")
        raise ScoreError(
            f"{scorer} must be `embedded`, `hub` or a folder, got {source}, which is none; correct it."
        )
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    return Source(scorer, "the embedded world" if source == "embedded" else folder.name, files)


def _from_hub(scorer: str) -> Source:
    from huggingface_hub import hf_hub_download

    if scorer not in HUB:
        raise ScoreError(
            f"{scorer} has no weights on the hub; download them and give their folder as the source."
        )
    files, commits = {}, {}
    for name, (repo, remote) in HUB[scorer].items():
        try:
            files[name] = Path(hf_hub_download(repo, remote))
        except Exception as error:  # the client raises a dozen kinds: offline, gated, missing, disk full
            reason = str(error).strip().split("\n")[0]
            raise ScoreError(
                f"{scorer} needs {remote} of {repo} from the hub, which could not be had ({type(error).__name__}:"
                f" {reason}); connect, or give a folder with it as the source."
            ) from None
        commits[repo] = files[name].parent.name[:12]
    return Source(scorer, ", ".join(f"{repo}@{commit}" for repo, commit in commits.items()), files)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pt/.pth/.bin without running anything that is pickled in it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Tensor] = load_file(path)
            return state
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torn files surface as RuntimeError, UnpicklingError, OSError, SafetensorError, ...
        reason = str(error).strip().split("\n")[0]
        raise ScoreError(
            f"{path} must hold readable weights, got {type(error).__name__}: {reason}; fetch it again."
        ) from None
    found = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ScoreError(
            f"{path} must hold a state dict of tensors, got {type(loaded).__name__}; give another file."
        )
    return found


def without_weights() -> AbstractContextManager[None]:
    """Modules made in this context have no memory for weights yet, and draw none: `load_strictly` gives it to them.

    A ViT-H is 4 GB in float32: without this a scorer would hold its weights twice while loading.
    """
    from accelerate import init_empty_weights

    context: AbstractContextManager[None] = init_empty_weights(include_buffers=False)
    return context


def load_strictly(
    module: nn.Module, state: dict[str, Tensor], path: Path, ignored: Iterable[str] = ()
) -> None:
    """Load `state` into `module`, every key accounted for; `state` is emptied on the way, to free memory.

    `ignored` names key endings or beginnings (those that end in a dot) that may be present and are not used.
    Raises `ScoreError` naming the first missing, surplus or wrongly shaped key.
    """
    beginnings = tuple(item for item in ignored if item.endswith("."))
    endings = tuple(item for item in ignored if not item.endswith("."))
    wanted = module.state_dict()
    used = {
        key: value
        for key, value in state.items()
        if key in wanted or not (key.startswith(beginnings) or key.endswith(endings))
    }
    for what, keys in (
        ("lacks", wanted.keys() - used.keys()),
        ("has the unknown", used.keys() - wanted.keys()),
    ):
        if keys:
            raise ScoreError(
                f"{path} {what} weights {sorted(keys)[0]} ({len(keys)} in all): it is not of this architecture;"
                " give the folder of a matching model."
            )
    for key, value in used.items():
        if value.shape != wanted[key].shape:
            raise ScoreError(
                f"{path}: {key} must have the shape {tuple(wanted[key].shape)} that the configuration implies, got"
                f" {tuple(value.shape)}; give the configuration that belongs to these weights."
            )
    state.clear()
    targets = module.state_dict()
    for key in list(used):
        value = used.pop(key)
        if targets[key].is_meta:
            _place(module, key, value)
        else:
            targets[key].copy_(value)


def _place(module: nn.Module, key: str, value: Tensor) -> None:
    """Give one weight of a module made in `without_weights` its memory and value.

    One at a time: what the one before it left free in the checkpoint's memory is used for this one.
    """
    path, _, name = key.rpartition(".")
    owner = module.get_submodule(path)
    empty: nn.Parameter = getattr(owner, name)
    filled = torch.empty_like(empty, device="cpu", requires_grad=False).copy_(value)
    setattr(owner, name, nn.Parameter(filled, requires_grad=empty.requires_grad))


def weights_sha256(*paths: Path) -> str:
    """SHA-256 of one weights file, or of the list of them where a model has several."""
    digests = [sha256_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
