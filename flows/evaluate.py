"""The deployment `evaluate`: a checkpoint against the base on prompt sets, in a folder of its own."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.forms import Evaluate
from flows.left_running import under_way
from flows.parameters import checked, chosen, for_evaluation
from flows.spin_diffusion import FLOW, bring_up_to_date
from flows.workspace import WEIGHTS, name_of, workspace
from spin.errors import ParamsError, SpinError
from spin.runtime.files import sha256_file
from spin.runtime.hub import is_hub_id
from tasks.project import TornProjectError
from tasks.stage import BAD_INPUT_STATE


@flow(name=FLOW)
def evaluate(run: Evaluate) -> State[Any]:
    """Compare a finished checkpoint with the base: images, scores and winning rates on prompt sets.

    Args:
        run: Which checkpoint, on which prompts, over what, and how.
    """
    try:
        with under_way(Path()):
            return _evaluate(run, Path())
    except (SpinError, TornProjectError) as error:
        return Failed(name=BAD_INPUT_STATE, message=str(error))


def _evaluate(run: Evaluate, root: Path) -> State[Any]:
    # Which parameters it takes: those of the project, with the checkpoints in place of what is trained.
    raw = chosen(root, run.profile, run.overrides)
    found = [*(find(each, None, root) for each in run.over), find(run.checkpoint, run.revision, root)]
    names = names_of([each.source for each in found])
    given = dict(zip(names, found, strict=True))
    raw = for_evaluation(raw, {name: each.parameters(name) for name, each in given.items()}, run.prompt_sets)
    params = checked(raw, root)

    # Its stages, and the links by which they read a folder.
    linked = {each.link(name): each.folder for name, each in given.items() if each.folder}
    targets = [f"tables@{name}" for name in params.evaluate.prompt_sets] + ["report"]
    with workspace(root, name_of(f"evaluate-{names[-1]}", raw), raw, linked) as folder:
        return bring_up_to_date(folder, targets, run)


class Found(NamedTuple):
    """A checkpoint from elsewhere."""

    source: str
    revision: str | None
    folder: Path | None
    """None for a repository of the hub."""
    digest: str

    def link(self, name: str) -> str:
        """Name the link to the folder: with other weights it has another name, and so the stages have other parameters."""
        return f"{name}-{self.digest[:8]}"

    def parameters(self, name: str) -> dict[str, Any]:
        """Return its entry in the section `released`."""
        source = (WEIGHTS / self.link(name)).as_posix() if self.folder else self.source
        return {"source": source, "revision": self.revision}


def find(source: str, revision: str | None, root: Path) -> Found:
    """Find a folder, else take it for a repository of the hub; raises `ParamsError` if it can be neither."""
    folder = root / Path(source).expanduser()
    if folder.is_dir():
        return Found(source, revision, folder.resolve(), _digest(folder))
    if is_hub_id(source):
        return Found(source, revision, None, "")
    raise ParamsError(
        f"checkpoint must be a folder or a hub id owner/name, but there is no folder {source}; correct it."
    )


def _digest(folder: Path) -> str:
    """Return a digest of the weights and configurations in a folder and the folders in it."""
    files = sorted(file for pattern in ("*", "*/*") for file in folder.glob(pattern) if file.is_file())
    told = [
        f"{each.relative_to(folder)} {sha256_file(each)}"
        for each in files
        if each.suffix in (".json", ".safetensors")
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def names_of(sources: Iterable[str]) -> list[str]:
    """Name checkpoints for the tables, after the last part of where they are, each differently."""
    names: list[str] = []
    for source in sources:
        parts = [part for part in Path(source).parts if part not in ("unet", "transformer", "/")] or ["model"]
        name = re.sub(r"[^a-z0-9]+", "_", parts[-1].lower()).strip("_")
        name = name if re.match("[a-z]", name) and name not in ("base", "clean") else f"model_{name}"
        number = sum(re.fullmatch(rf"{name}(_\d+)?", each) is not None for each in names)
        names.append(f"{name}_{number + 1}" if number else name)
    return names
