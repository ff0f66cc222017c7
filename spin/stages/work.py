"""What all stages share: where unfinished work lies, what it depends on, and which names there are."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from spin import paths
from spin.errors import ParamsError
from spin.params.schema import Params
from spin.runtime.code import code_digest
from spin.runtime.files import replacing_dir
from spin.runtime.meter import keeping
from spin.runtime.shards import wait_for_all, work_key
from spin.runtime.sums import checked_digest
from spin.stages.kept_work import finish, remove_recorded

CURVE_SUM = "curve.sha256"
"""In a checkpoint: the hash of its training's curve, which is an output of its own."""


@contextlib.contextmanager
def stage_output(
    out: Path, run: Callable[..., Any], item: str, *depends_on: Any
) -> Iterator[tuple[Path, Path]]:
    """Yield (temporary output folder, work folder); on success the first becomes `out`.

    The work folder is named by the stage function `run`, the item and a digest of what they depend on, so a killed run
    is continued by the same work and by no other. It stays until DVC has recorded the output. What `out` held before
    stays until the new one is whole.
    """
    with kept_work(out, run, item, *depends_on) as work, replacing_dir(out) as folder:
        yield folder, work


@contextlib.contextmanager
def kept_work(out: Path, run: Callable[..., Any], item: str, *depends_on: Any) -> Iterator[Path]:
    """Yield the work folder of a stage that brings its folder `out` into place itself; otherwise as `stage_output`."""
    remove_recorded()
    work = work_folder(run, item, *depends_on)
    work.mkdir(parents=True, exist_ok=True)
    wait_for_all()  # only now do other processes look at what is kept
    try:
        with keeping(work):
            yield work
    except BaseException:
        with contextlib.suppress(OSError):
            work.rmdir()  # if nothing is in it
        raise
    finish(work, out)


def shared_work(run: Callable[..., Any], item: str, *depends_on: Any) -> Path:
    """The work folder as a process finds it that is not the first, once that one has `kept_work` open."""
    wait_for_all()
    return work_folder(run, item, *depends_on)


def work_folder(run: Callable[..., Any], item: str, *depends_on: Any) -> Path:
    """Where the stage function `run` keeps unfinished work: named by what it depends on, its code's meaning included."""
    key = work_key(code_digest(f"{run.__module__}:{run.__name__}"), *depends_on)
    stage = run.__name__.removeprefix("run_")
    return paths.WORK / "work" / "-".join(part for part in (stage, item, key) if part)


def digest_of(*files: Path) -> list[str]:
    """What input files hold, for the key of unfinished work; raises `DamagedError` for one that is damaged."""
    return [checked_digest(file) if file.is_file() else "absent" for file in files]


def checkpoint_digest(name: str) -> list[str]:
    """What a checkpoint holds, for the key of unfinished work."""
    return digest_of(paths.CHECKPOINTS / name / "model.json")


def earlier_iterates(params: Params, name: str) -> list[str]:
    """The checkpoints before iteration `name`, from the base to its `prev`."""
    check_name(name, params.iterations)
    earlier = [params.iterations[name].prev]
    while earlier[0] != "base":
        earlier.insert(0, params.iterations[earlier[0]].prev)
    return earlier


def check_item(params: Params, prompt_set: str, name: str, known: Collection[str]) -> None:
    """Raise `ParamsError` unless `name` is one of `known` and the prompt set one that is evaluated on."""
    check_name(name, known)
    check_name(prompt_set, params.evaluate.prompt_sets, "--prompts")


def check_name(name: str, known: Collection[str], option: str = "--name") -> None:
    """Raise `ParamsError` unless `name` is one of `known`."""
    if name not in known:
        raise ParamsError(
            f"{option} must be one of {', '.join(known) or 'none'}, got {name}; correct the name."
        )
