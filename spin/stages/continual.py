"""Going on inside an iteration against moving to the next one (figure 5 of Yuan et al. 2024, arXiv:2402.10210).

From the finished iteration's weights two players go on: one stays in its game, measured against that iteration's
reference on that iteration's opponents; the other plays the next iteration. At every so many updates both draw the
same prompts from the same seeds and are scored. What comes out:

scores.parquet    path (start, stay, switch), step, epochs, and the scores of every image
curve.csv         path (these, and between), step, epochs, scorer, n, mean, and difference, low, high; see curve_of
curve.png, .svg   a panel per scorer, epochs on the x axis
curve.md          the same as a table
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from spin import paths
from spin.errors import ParamsError
from spin.models.checkpoint import load_to_draw
from spin.params.continual import ContinualParams
from spin.params.sampling import RUN_ONLY
from spin.params.schema import Params
from spin.runtime.devices import default_device, process_state
from spin.runtime.files import read_json, read_parquet, replacing_dir, write_json
from spin.stages.work import check_name, checkpoint_digest, digest_of, stage_output

STAY, SWITCH = "stay", "switch"


def run_continual(params: Params, name: str) -> None:
    """Train and score both paths of the comparison `name`; a killed run goes on where it was."""
    check_name(name, params.continual)
    if process_state().num_processes > 1:
        raise ParamsError("continual must run in one process, got several; start it without a launcher.")

    # What the comparison depends on.
    chosen = params.continual[name]
    drawn = [paths.OPPONENTS / iteration / "opponents.json" for iteration in (chosen.finished, chosen.next)]
    key = (
        params.model_dump(include={"seed", "resolution", "training", "objective", "scorers", "tables"}),
        params.evaluate_on(chosen.prompts).model_dump(exclude={"models", "references"} | RUN_ONLY),
        chosen.model_dump(),
        params.iterations[chosen.next].model_dump(),
        [checkpoint_digest(iteration) for iteration in (chosen.finished, chosen.next)],
        digest_of(
            paths.DATA / "manifest.parquet",
            paths.prompts_of(chosen.prompts),
            paths.CACHE / "cache.json",
            *drawn,
        ),
    )
    with stage_output(paths.CONTINUAL / name, run_continual, name, *key) as (out, work):
        # The common start, then both paths, each scored on the way.
        start = _scores(params, chosen, paths.CHECKPOINTS / chosen.finished, work / "start", "start", 0)
        frames = [start.assign(epochs=0.0)]
        for path in (STAY, SWITCH):
            frames += _follow(params, chosen, path, work / path)

        # One table over both, and the figure.
        scores = pd.concat(frames, ignore_index=True)
        scores.to_parquet(out / "scores.parquet", index=False)
        write_json(out / "protocol.json", read_json(work / "start" / "protocol.json"))
        _write_curve(params, scores, out)


def _follow(params: Params, chosen: ContinualParams, path: str, work: Path) -> list[pd.DataFrame]:
    """Train one path and score its snapshots."""
    from spin.data.cache import Cache
    from spin.stages.callbacks import snapshot_of
    from spin.stages.train import run_training
    from spin.training.setup import Inputs, open_training_set

    # Where this path starts, and whom it is measured against.
    finished, plan = params.iterations[chosen.finished], params.iterations[chosen.next]
    points = range(chosen.every, plan.num_steps + 1, chosen.every)
    inputs = Inputs(
        data=paths.DATA,
        cache=paths.CACHE,
        opponents=paths.OPPONENTS / (chosen.finished if path == STAY else chosen.next),
        prev=paths.CHECKPOINTS / chosen.finished,
        work=work,
        previews=work / "previews",
        reference=paths.CHECKPOINTS / finished.prev if path == STAY else None,
        snapshots=work / "snapshots",
        snapshot_every=chosen.every,
    )

    # Train to the end, keeping snapshots, then score those.
    if not (work / "trained").is_dir():
        with replacing_dir(work / "trained") as folder:
            run_training(params, chosen.next, inputs, folder)
    num_rows = open_training_set(plan, inputs, Cache(paths.CACHE)).num_rows
    return [
        _scores(
            params, chosen, snapshot_of(work / "snapshots", step), work / f"scores-{step:06d}", path, step
        ).assign(epochs=step * params.training.batch_size / num_rows)
        for step in points
    ]


def _scores(
    params: Params, chosen: ContinualParams, checkpoint: Path, scores: Path, path: str, step: int
) -> pd.DataFrame:
    """Draw and score the prompt set with a checkpoint, unless that is done; images are not kept."""
    from spin.rewards.loading import load_scorer
    from spin.rewards.scoring import score_folder
    from spin.sampling.samples import write_samples

    if not (scores / "scores.parquet").is_file():
        device, label = default_device(), f"{path} {step}"
        images = scores.parent / "images"
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True)
        prompts, evaluate = paths.prompts_of(chosen.prompts), params.evaluate_on(chosen.prompts)
        diffusion = load_to_draw(checkpoint, device, evaluate)
        drawing = scores.with_name(f"{scores.name}-drawing")
        write_samples(images, drawing, diffusion, prompts, evaluate, params.resolution, label)
        del diffusion
        scorers = [load_scorer(name, given.source, device=device) for name, given in params.scorers.items()]
        score_folder(images, scorers, scores, evaluate.batch_size)
        protocol = scores / "protocol.json"
        write_json(protocol, read_json(images / "protocol.json"), sealed_for=protocol)
        for done in (images, drawing):
            shutil.rmtree(done)
    return read_parquet(scores / "scores.parquet").assign(path=path, step=step)


def _write_curve(params: Params, scores: pd.DataFrame, out: Path) -> None:
    from spin.evaluation.continual import curve_of, curve_table, draw_curve
    from spin.evaluation.figures import save_figure, styled

    curve = curve_of(
        scores, list(params.scorers), params.tables, params.evaluate.seed, params.evaluate.reduction
    )
    curve.to_csv(out / "curve.csv", index=False)
    protocol: dict[str, Any] = read_json(out / "protocol.json")
    (out / "curve.md").write_text(curve_table(curve, protocol, params.tables), encoding="utf-8")
    with styled():
        save_figure(draw_curve(curve), out / "curve")
