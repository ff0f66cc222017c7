"""The stages up to the trained models, one function each: parameters and finished inputs in, one finished folder out.

`evaluation_stages` has the others.

`dvc.yaml` says in which order and on what they depend; `cli` runs one; `tasks` runs them through DVC.
"""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin import paths
from spin.errors import ParamsError
from spin.files import read_json, replacing_dir, sha256_file, sha256_tree, write_json
from spin.params import Params
from spin.processes import process_state
from spin.shards import work_key

if TYPE_CHECKING:
    from spin.models import LatentDiffusion


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


def digest_of(*files: Path) -> list[str]:
    """What input files hold, for the key of unfinished work."""
    return [sha256_file(file) if file.is_file() else "absent" for file in files]


def checkpoint_digest(name: str) -> list[str]:
    return digest_of(paths.CHECKPOINTS / name / "model.json")


def run_data(params: Params) -> None:
    """Bring the data source to a manifest with prompt sets."""
    from spin.data.sources import write_data

    with replacing_dir(paths.DATA) as out:
        write_data(out, params)


def run_base(params: Params) -> None:
    """Find the base model and record which weights it has."""
    from spin.models import reference_of
    from spin.sampling import check_samplers

    reference = reference_of(params.base)
    if reference["family"] == "stable-diffusion-3" and params.resolution % 16:
        raise ParamsError(
            f"resolution must be a multiple of 16 with SD3, got {params.resolution}; its transformer pairs up latents."
        )
    check_samplers(params, str(reference["prediction_type"]))
    with replacing_dir(paths.CHECKPOINTS / "base") as out:
        write_json(out / "model.json", reference)


def run_released(params: Params, name: str) -> None:
    """Find a published checkpoint that is only evaluated and record which weights it has."""
    from spin.models import released_reference

    if name not in params.released:
        known = ", ".join(params.released) or "none"
        raise ParamsError(f"--name must be one of released ({known}), got {name}; correct the name.")
    reference = released_reference(name, params.released[name], paths.CHECKPOINTS / "base")
    with replacing_dir(paths.CHECKPOINTS / name) as out:
        write_json(out / "model.json", reference)


def run_cache(params: Params) -> None:
    """Encode the data set's images and captions with the base."""
    from spin.data.cache import write_cache
    from spin.models import load_model

    base = paths.CHECKPOINTS / "base"
    diffusion = load_model(base)
    for network in diffusion.encoders():
        network.to(default_device())
    reference = read_json(base / "model.json")
    write_cache(paths.DATA, paths.CACHE, paths.WORK / "cache", diffusion, reference, params.cache.batch_size)


def run_opponents(params: Params, name: str) -> None:
    """Let the checkpoints before iteration `name` draw images for the training captions."""
    from spin.data.cache import Cache
    from spin.models.checkpoint import weights_digest
    from spin.opponents import OpponentStage, collect_opponents, write_opponents
    from spin.safety import SafetyChecker

    iterates, chosen = earlier_iterates(params, name), params.opponents
    key = (
        chosen.model_dump(exclude={"batch_size"}),
        params.seed,
        params.resolution,
        [checkpoint_digest(iterate) for iterate in iterates],
        digest_of(paths.DATA / "manifest.parquet", paths.CACHE / "cache.json"),
    )
    source = chosen.safety_checker
    checker = None if source is None else SafetyChecker(source, default_device())
    stage = OpponentStage(
        name,
        iterates,
        _one_at_a_time(chosen.precision),
        paths.DATA,
        Cache(paths.CACHE),
        chosen,
        params.resolution,
        params.seed,
        {iterate: weights_digest(paths.CHECKPOINTS / iterate) for iterate in iterates},
    )
    if not process_state().is_main_process:
        return write_opponents(stage, work_folder(f"opponents-{name}", *key), checker)
    with stage_output(paths.OPPONENTS / name, f"opponents-{name}", *key) as (out, work):
        write_opponents(stage, work, checker)
        collect_opponents(stage, work, out)


def earlier_iterates(params: Params, name: str) -> list[str]:
    """The checkpoints before iteration `name`, from the base to its `prev`."""
    chain = [_iteration_prev(params, name)]
    while chain[0] != "base":
        chain.insert(0, params.iterations[chain[0]].prev)
    return chain


def _one_at_a_time(precision: str) -> "Callable[[str], LatentDiffusion]":
    """A function that loads a checkpoint by name, letting go of the last one."""
    from spin.models.checkpoint import load_to_draw
    from spin.precision import DTYPES

    @functools.lru_cache(maxsize=1)
    def load(checkpoint: str) -> "LatentDiffusion":
        return load_to_draw(
            paths.CHECKPOINTS / checkpoint, default_device(), DTYPES[precision], with_text=False
        )

    return load


NOT_THE_METHOD = {
    "checkpoint_every",
    "compile",
    "gradient_checkpointing",
    "micro_batch_size",
    "preview_every",
}
"""Training settings that change speed, memory or rounding only: a killed run goes on under other ones."""


def run_train(params: Params, name: str) -> list[dict[str, float]]:
    """Train an iteration or a baseline; return its curve, which also stands in outputs/curves."""
    from spin.training_stage import Inputs, run_training, write_curve

    key = _training_key(params, name)
    work = work_folder(f"train-{name}", *key)
    inputs = Inputs(
        data=paths.DATA,
        cache=paths.CACHE,
        opponents=paths.OPPONENTS / name,
        prev=paths.CHECKPOINTS / params.stage(name).prev,
        work=work,
        previews=paths.PREVIEWS / name,
    )
    if not process_state().is_main_process:  # only the main process writes
        return run_training(params, name, inputs, Path(tempfile.gettempdir())).curve
    if not work.is_dir():
        shutil.rmtree(inputs.previews, ignore_errors=True)  # of an earlier training
    with stage_output(paths.CHECKPOINTS / name, f"train-{name}", *key) as (out, _):
        trained = run_training(params, name, inputs, out)
        write_curve(paths.CURVES / f"{name}.csv", trained.curve)
    write_json(paths.TRAINING / f"{name}.json", trained.run)
    return trained.curve


def _training_key(params: Params, name: str) -> tuple[Any, ...]:
    """What the result of a training depends on."""
    plan = params.stage(name)
    training = params.training.model_dump(exclude=NOT_THE_METHOD)
    inputs = digest_of(
        paths.DATA / "manifest.parquet", paths.DATA / "pairs.parquet", paths.CACHE / "cache.json"
    )
    if name not in params.iterations:
        return plan.model_dump(), training, params.seed, checkpoint_digest(plan.prev), inputs
    # What an image's pixels were is in the manifest's digests, and what the opponents drew in their shards'.
    opponents = paths.OPPONENTS / name
    inputs += digest_of(opponents / "index.parquet", *sorted(opponents.glob("shard-*/latents.safetensors")))
    iterates = [checkpoint_digest(iterate) for iterate in earlier_iterates(params, name)]
    return plan.model_dump(), training, params.objective.model_dump(), params.seed, iterates, inputs


def _iteration_prev(params: Params, name: str) -> str:
    if name not in params.iterations:
        raise ParamsError(
            f"--name must be one of {', '.join(params.iterations)}, got {name}; correct the name."
        )
    return params.iterations[name].prev


def default_device() -> str:
    """The accelerator if there is one, else the CPU."""
    return str(process_state().device)
