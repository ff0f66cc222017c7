"""`spin promote`: a challenger meets the champion of the registry on the same prompts; `spin rollback` undoes it."""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin import paths
from spin.errors import EvaluationError, ModelError, TrackingError
from spin.params.sampling import RUN_ONLY
from spin.params.schema import Params, load_params
from spin.runtime.files import read_json
from spin.runtime.sums import checked

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

FILES = ("scores.parquet", "summary.json")


def register(commands: "Commands") -> None:
    """Add both commands."""
    text = "Let a registered model meet the champion; it takes its place if it is shown to be better."
    promote = commands.add_parser("promote", help=text, description=text)
    promote.add_argument("--model", help="which iteration (default: the best of the run)")
    promote.set_defaults(run=run_promote)
    text = "Give the place of the champion back to the one before."
    rollback = commands.add_parser("rollback", help=text, description=text)
    rollback.set_defaults(run=run_rollback)
    for command in (promote, rollback):
        command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")


def run_promote(options: argparse.Namespace) -> None:
    """Compare, write the decision on the version, and say it; raises what is wrong as one sentence."""
    from spin.evaluation.gate import CHALLENGER, CHAMPION, decide, describe
    from spin.tracking.promotion import champion_of, record, version_of

    params, listed = load_params(options.params), _listed()
    entry = _entry(listed, options.model)
    name, prompt_set = listed["name"], entry["chosen_on"]
    with _registry() as client:
        version = version_of(client, name, entry["model"], entry["md5"])
        champion = champion_of(client, name)
    if version is None:
        raise TrackingError(
            f"{describe(entry)} must be in MLflow's registry as {name}, but is not; run `spin sync --all`."
        )
    if champion is not None and champion.version == version.version:
        print(f"{describe(entry)} is the champion of {name} already.")
        return

    # Both scores side by side, the champion's as they were or made anew.
    with tempfile.TemporaryDirectory() as folder:
        _copy_scores(paths.SCORES / prompt_set / entry["model"], Path(folder) / CHALLENGER)
        if champion is None:
            over = "base"
            _copy_scores(paths.SCORES / prompt_set / "base", Path(folder) / CHAMPION)
            decision = decide(params, Path(folder))
        else:
            over = f"version {champion.version}, {champion.tags['model']}"
            decision = _meet(params, champion.tags, prompt_set, Path(folder))
    with _registry() as client:
        record(client, name, version, decision.tags(over), decision.promoted)
    print(decision.sentence(describe(entry), over))


def run_rollback(options: argparse.Namespace) -> None:
    """Move the alias back and say so; raises `TrackingError` if nobody has it."""
    from spin.tracking.promotion import roll_back

    load_params(options.params)
    name = _listed()["name"]
    with _registry() as client:
        lost, has = roll_back(client, name)
    if lost is None:
        raise TrackingError(
            f"{name} must have a champion to roll back, but has none; `spin promote` makes one."
        )
    now = (
        "nobody is champion"
        if has is None
        else f"version {has.version}, {has.tags['model']}, is the champion"
    )
    print(f"Version {lost.version}, {lost.tags['model']}, is no longer the champion of {name}; {now}.")


def _copy_scores(scores: Path, folder: Path) -> None:
    """Copy a model's scores as they were written; raises `FileError` if they are damaged or missing."""
    for file in FILES:
        if not (scores / file).is_file():
            raise EvaluationError(
                f"{scores / file} must hold a model's scores, found none; score {scores.name} first."
            )
        checked(scores / file)
    shutil.copytree(scores, folder)


def _meet(params: Params, champion: dict[str, str], prompt_set: str, folder: Path) -> Any:
    """Decide against the champion's kept scores, or, where they are gone or not comparable, against new ones."""
    from spin.evaluation.gate import CHAMPION, decide
    from spin.tools.pulled import bring

    try:
        (folder / CHAMPION).mkdir()
        for file in FILES:
            kept = bring(f"{champion['dvc.scores']}/{file}", champion[f"dvc.{file}"], None)
            shutil.copy(kept, folder / CHAMPION / file)
        return decide(params, folder)
    except (ModelError, EvaluationError, KeyError):
        shutil.rmtree(folder / CHAMPION)
        shutil.copytree(_score_anew(params, champion, prompt_set), folder / CHAMPION)
        return decide(params, folder)


def _score_anew(params: Params, champion: dict[str, str], prompt_set: str) -> Path:
    """Draw and score the champion's images as the challenger's were; resumes where it was interrupted."""
    from spin.models.checkpoint import load_to_draw
    from spin.rewards.loading import load_scorer
    from spin.rewards.scoring import score_folder
    from spin.runtime.devices import default_device
    from spin.runtime.files import replacing_dir, sha256_file
    from spin.runtime.shards import work_key
    from spin.sampling.samples import write_samples
    from spin.tools.pulled import bring

    checkpoint = bring(champion["dvc.path"], champion["dvc.md5"], None)
    prompts, device = paths.prompts_of(prompt_set), default_device()
    evaluate = params.evaluate_on(prompt_set)
    drawn_by = evaluate.model_dump(exclude={"models", "references"} | RUN_ONLY)
    key = work_key(champion["dvc.md5"], sha256_file(prompts), drawn_by, params.resolution)
    work = paths.WORK / "promote" / key  # unfinished images of another protocol are not these
    images = work / "images"
    with replacing_dir(images) as out:
        diffusion = load_to_draw(checkpoint, device, evaluate)
        write_samples(out, work / "drawing", diffusion, prompts, evaluate, params.resolution, "champion")
    scorers = [load_scorer(name, given.source, device=device) for name, given in params.scorers.items()]
    score_folder(images, scorers, work / "scores", evaluate.batch_size)
    return work / "scores"


def _listed() -> dict[str, Any]:
    file = paths.REGISTRY / "registry.json"
    if not file.is_file():
        raise ModelError(f"{file} must list the run's models, found none; run `dvc repro register`.")
    listed: dict[str, Any] = read_json(file)
    return listed


def _entry(listed: dict[str, Any], model: str | None) -> dict[str, Any]:
    """The entry of a model, or of the best of the run."""
    names = [entry["model"] for entry in listed["models"]]
    if model is not None and model not in names:
        raise ModelError(f"--model must be one of {', '.join(names)}, got {model}; correct it.")
    wanted = model or next(entry["model"] for entry in listed["models"] if entry["champion"])
    found: dict[str, Any] = listed["models"][names.index(wanted)]
    return found


def _registry() -> Any:
    """A client of MLflow, as a block; raises `TrackingError` if MLflow is not there."""
    from spin.tracking.connection import reached

    return reached(Path.cwd())
