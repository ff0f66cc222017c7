"""The stages of the pipeline, one function each: parameters and finished inputs in, one finished output folder out.

`dvc.yaml` says in which order and on what they depend; `cli` runs one; `tasks` runs them through DVC.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spin import paths
from spin.errors import ParamsError
from spin.files import replacing_dir, sha256_file, sha256_tree, write_json
from spin.params import Params
from spin.shards import work_key


@contextlib.contextmanager
def stage_output(out: Path, stage: str, *depends_on: Any) -> Iterator[tuple[Path, Path]]:
    """Yield (temporary output folder, work folder); on success the first becomes `out` and the second is removed.

    The work folder is named by the stage and a digest of what it depends on, so a killed run is continued by the
    same work and by no other. Output that a changed `out` held stays until then.
    """
    work = work_folder(stage, *depends_on)
    work.mkdir(parents=True, exist_ok=True)
    with replacing_dir(out) as folder:
        yield folder, work
    shutil.rmtree(work, ignore_errors=True)


def work_folder(stage: str, *depends_on: Any) -> Path:
    """Where a stage keeps unfinished work: named by what it depends on, this package's code included."""
    code = sha256_tree(Path(__file__).parent, "**/*.py")
    return paths.WORK / "work" / f"{stage}-{work_key(code, *depends_on)}"


def _digest(*files: Path) -> list[str]:
    """What input files hold, for the key of unfinished work."""
    return [sha256_file(file) if file.is_file() else "absent" for file in files]


def _checkpoint_digest(name: str) -> list[str]:
    return _digest(paths.CHECKPOINTS / name / "model.json")


def run_data(params: Params) -> None:
    """Bring the data source to a manifest with prompt sets."""
    from spin.data.folder import write_folder_data
    from spin.data.toy import write_toy_data

    with replacing_dir(paths.DATA) as out:
        if params.data.kind == "toy":
            write_toy_data(out, params.data, params.seed)
        else:
            write_folder_data(out, params.data, params.resolution)


def run_base(params: Params) -> None:
    """Find the base model and record which weights it has."""
    from spin.models import reference_of

    reference = reference_of(params.base)
    with replacing_dir(paths.CHECKPOINTS / "base") as out:
        write_json(out / "model.json", reference)


def run_cache(params: Params) -> None:
    """Encode the data set's images and captions with the base."""
    from spin.data.cache import write_cache
    from spin.models import load_model

    inputs = (
        _digest(paths.DATA / "manifest.parquet", paths.DATA / "pairs.parquet"),
        _checkpoint_digest("base"),
    )
    with stage_output(paths.CACHE, "cache", *inputs) as (out, work):
        diffusion = load_model(paths.CHECKPOINTS / "base", default_device())
        write_cache(paths.DATA, out, work, diffusion, params.cache.batch_size)


def run_opponents(params: Params, name: str) -> None:
    """Let the checkpoint before iteration `name` draw an image for every training caption."""
    from spin.data.cache import Cache
    from spin.models import load_model
    from spin.opponents import write_opponents

    prev = _iteration_prev(params, name)
    chosen = params.opponents.model_dump(exclude={"batch_size"})
    key = (
        chosen,
        params.seed,
        params.resolution,
        _checkpoint_digest(prev),
        _digest(paths.DATA / "manifest.parquet"),
    )
    with stage_output(paths.OPPONENTS / name, f"opponents-{name}", *key) as (out, work):
        diffusion = load_model(paths.CHECKPOINTS / prev, default_device())
        cache = Cache(paths.CACHE)
        write_opponents(
            out, work, diffusion, paths.DATA, cache, params.opponents, params.resolution, params.seed, name
        )


def run_train(params: Params, name: str) -> list[dict[str, float]]:
    """Train an iteration or a baseline; return its curve, which also stands in outputs/curves."""
    from accelerate import PartialState

    from spin.training_stage import run_training, write_curve

    plan = params.stage(name)
    opponents, prev = paths.OPPONENTS / name, paths.CHECKPOINTS / plan.prev
    inputs = _digest(paths.DATA / "manifest.parquet", paths.DATA / "pairs.parquet")
    # What an image's pixels were is in the manifest's digests, and what an opponent drew in its shards'.
    inputs += _digest(*sorted(opponents.glob("shard-*/latents.safetensors")))
    training = params.training.model_dump(exclude={"checkpoint_every", "gradient_checkpointing"})
    key = plan.model_dump(), training, params.seed, _checkpoint_digest(plan.prev), inputs
    work = work_folder(f"train-{name}", *key)
    arguments = params, name, paths.DATA, paths.CACHE, opponents, prev, work
    if not PartialState().is_main_process:
        return run_training(*arguments, out=Path(tempfile.gettempdir()))  # only the main process writes
    with stage_output(paths.CHECKPOINTS / name, f"train-{name}", *key) as (out, _):
        curve = run_training(*arguments, out=out)
        write_curve(paths.CURVES / f"{name}.csv", curve)
    return curve


def run_generate(params: Params, name: str) -> None:
    """Draw the evaluation images of a model."""
    from spin.generate import write_samples
    from spin.models import load_model
    from spin.models.checkpoint import weights_digest

    if name not in params.evaluate.models:
        raise ParamsError(
            f"--name must be one of {', '.join(params.evaluate.models)}, got {name}; correct the name."
        )
    checkpoint = paths.CHECKPOINTS / name
    prompts = paths.DATA / "prompts" / f"{params.evaluate.prompt_set}.parquet"
    protocol = params.evaluate.model_dump(exclude={"models", "reduction", "references"})
    key = protocol, params.resolution, _checkpoint_digest(name), _digest(prompts)
    with stage_output(paths.SAMPLES / name, f"generate-{name}", *key) as (out, work):
        diffusion = load_model(checkpoint, default_device())
        write_samples(out, work, diffusion, paths.DATA, params.evaluate, params.resolution, name)
        write_json(out / "model.json", {"model": name, "unet_sha256": weights_digest(checkpoint)})


def run_reference(params: Params, name: str) -> None:
    """Render and score a reference level, such as the embedded world's perfect images."""
    from spin.models import load_model
    from spin.toy.reference import write_clean_samples

    with replacing_dir(paths.SAMPLES / name) as out:
        write_clean_samples(out, load_model(paths.CHECKPOINTS / "base"), paths.DATA, params)
    run_score(params, name)


def run_score(params: Params, name: str) -> None:
    """Score the images of a model with every reward model."""
    from spin.rewards import load_scorer
    from spin.rewards.scoring import score_folder

    device = default_device()
    scorers = [load_scorer(scorer, given.source, device=device) for scorer, given in params.scorers.items()]
    score_folder(paths.SAMPLES / name, scorers, paths.SCORES / name, params.evaluate.batch_size)


def run_tables(params: Params) -> None:
    """Compare all models: means, medians, winning rates, intervals."""
    from spin.evaluation.tables import write_tables

    write_tables(params, paths.SCORES, paths.TABLES, references=params.evaluate.references)


def run_report(params: Params) -> None:
    """Draw the figures and the page."""
    from spin.evaluation.report import write_report

    write_report(params, paths.TABLES, paths.SAMPLES, paths.CURVES, paths.CHECKPOINTS, paths.REPORT)


def run_register(params: Params) -> None:
    """List the iterations as model versions, with what each is and how it did."""
    from spin.registry import register_models

    register_models(params, Path.cwd())


def _iteration_prev(params: Params, name: str) -> str:
    if name not in params.iterations:
        raise ParamsError(
            f"--name must be one of {', '.join(params.iterations)}, got {name}; correct the name."
        )
    return params.iterations[name].prev


def default_device() -> str:
    """The accelerator if there is one, else the CPU."""
    from accelerate import PartialState

    return str(PartialState().device)
