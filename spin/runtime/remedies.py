"""What brings a damaged file back: the end of a sentence, with the command to type."""

import os
import shlex
from pathlib import Path

from spin import paths
from spin.errors import FileError
from spin.runtime.provenance import recorded_stages

_COMMANDS = {
    paths.CODE: "code",
    paths.DATA: "data",
    paths.CACHE: "cache",
    paths.CHECKPOINTS / "base": "base",
    paths.CHECKPOINTS: "train --name {0}",
    paths.CURVES: "train --name {0}",
    paths.TRAINING: "train --name {0}",
    paths.OPPONENTS: "opponents --name {0}",
    paths.PROMPTS: "prompt-set --name {0}",
    paths.CONTINUAL: "continual --name {0}",
    paths.SAMPLES: "generate --prompts {0} --name {1}",
    paths.SCORES: "score --prompts {0} --name {1}",
    paths.TABLES: "tables --prompts {0}",
    paths.METRICS: "tables --prompts {0}",
    paths.REPORT: "report",
    paths.REGISTRY: "register",
}
"""Place -> the arguments of `spin` that make what lies there; {0} and {1} are the names below it."""
_ENDINGS = (".parquet", ".json", ".csv")
"""Of outputs that are single files, named after their item."""


def remedy(path: Path) -> str:
    """What to do about a damaged file, by the place where it lies.

    Of an output that dvc.lock knows: the stage, run by force, for DVC does not look into files that it takes for
    unchanged. Where DVC's cache shares the file by a link it holds the same bytes, and must lose them first.
    """
    root, place = _split(path)
    here = "" if root == Path.cwd() else f"in {root} "
    if place.parts[:1] == (paths.WORK.name,):
        return f"{here}`rm -r {shlex.quote(str(Path(*place.parts[:3])))}` and run the same command again"
    command = command_for(root, place)
    if command is None:
        return "copy it again, or make it again with its stage"
    file, stage = shlex.quote(place.as_posix()), _recorded_stage(root, place)
    if stage is None:
        return f"{here}`python -m spin {command}` makes it again"
    again = f"dvc repro -f -s {stage}"
    if _is_linked(path):
        return f'{here}`find -L "$(dvc cache dir)" -samefile {file} -delete; {again}` makes it again'
    return f"{here}`rm -f {file} && dvc checkout {file}` brings back DVC's copy, or `{again}` makes it again"


def command_for(root: Path, place: Path) -> str | None:
    """The arguments of `spin` that make what lies at `place` below the project `root`; None for what no stage makes.

    What makes a checkpoint or samples is told from the files beside it.
    """
    output = next((each for each in (place, *place.parents) if each in _COMMANDS), None)
    if output is None:
        return None
    names = [_without_ending(part) for part in place.relative_to(output).parts]
    command = _COMMANDS[output].format(*names, "", "")
    folder = root.joinpath(output, *names[:2])
    if output == paths.SAMPLES and not (folder / "model.json").is_file():
        return command.replace("generate", "reference")  # drawn by no model
    if output == paths.CHECKPOINTS and not any(each.is_dir() for each in folder.parent.glob("*")):
        return command.replace("train", "released")  # with no weights of its own
    return command


def _without_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


def _split(path: Path) -> tuple[Path, Path]:
    """The project's root, and the place of a file below it, which begins with outputs/ or .spin/; empty for others."""
    parts = Path(os.path.abspath(path)).parts
    for index in range(len(parts) - 1, 0, -1):
        if parts[index] in (paths.OUTPUTS.name, paths.WORK.name):
            return Path(*parts[:index]), Path(*parts[index:])
    return Path.cwd(), Path()


def _recorded_stage(root: Path, place: Path) -> str | None:
    """The stage that dvc.lock has for the output that a file is or lies in."""
    try:
        stages = recorded_stages(root)
    except FileError:  # a torn dvc.lock has its own sentence
        return None
    return next((stages[str(each)] for each in (place, *place.parents) if str(each) in stages), None)


def _is_linked(path: Path) -> bool:
    """Whether DVC's cache shares the file: by a symbolic link, or by a hard one, which DVC makes read-only."""
    if path.is_symlink():
        return True
    try:
        stat = path.stat()
    except OSError:
        return False
    return stat.st_nlink > 1 and not stat.st_mode & 0o222
