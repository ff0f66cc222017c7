"""The stages that compare trained models: prompt sets, images, scores, tables, the report, the registry."""

from collections.abc import Sequence
from pathlib import Path

from spin import paths
from spin.data.manifest import read_prompts
from spin.errors import ParamsError
from spin.files import read_json, replacing_dir, replacing_file, write_json
from spin.params import Params
from spin.stages import checkpoint_digest, default_device, digest_of, stage_output


def run_prompt_set(params: Params, name: str) -> None:
    """Bring a prompt set to a table of prompts."""
    from spin.prompts import load_prompt_set

    if name not in params.prompt_sets:
        raise ParamsError(
            f"--name must be one of {', '.join(params.prompt_sets)}, got {name}; correct the name."
        )
    chosen = params.prompt_sets[name]
    own = chosen.prompts in ("val", "test")
    table = (
        read_prompts(paths.DATA, chosen.prompts) if own else load_prompt_set(chosen.prompts, chosen.source)
    )
    with replacing_file(paths.prompts_of(name)) as temporary:
        table.to_parquet(temporary, index=False)


def run_generate(params: Params, prompt_set: str, name: str) -> None:
    """Draw the images of a model for a prompt set."""
    from spin.generate import write_samples
    from spin.models.checkpoint import load_to_draw, weights_digest
    from spin.precision import DTYPES

    _check_named(params, prompt_set, name, params.evaluate.models)
    checkpoint, prompts = paths.CHECKPOINTS / name, paths.prompts_of(prompt_set)
    protocol = params.evaluate.model_dump(exclude={"models", "reduction", "references", "prompt_sets"})
    key = protocol, params.resolution, checkpoint_digest(name), digest_of(prompts)
    with stage_output(paths.SAMPLES / prompt_set / name, f"generate-{prompt_set}-{name}", *key) as (
        out,
        work,
    ):
        diffusion = load_to_draw(checkpoint, default_device(), DTYPES[params.evaluate.precision])
        write_samples(out, work, diffusion, prompts, params.evaluate, params.resolution, name)
        write_json(out / "model.json", {"model": name, "unet_sha256": weights_digest(checkpoint)})


def run_reference(params: Params, prompt_set: str, name: str) -> None:
    """Render and score a reference level, such as the embedded world's perfect images."""
    from spin.models import load_model
    from spin.toy.reference import write_clean_samples

    _check_named(params, prompt_set, name, params.evaluate.references)  # a model's samples lie beside it
    with replacing_dir(paths.SAMPLES / prompt_set / name) as out:
        base = load_model(paths.CHECKPOINTS / "base")
        write_clean_samples(out, base, paths.prompts_of(prompt_set), params)
    run_score(params, prompt_set, name)


def run_score(params: Params, prompt_set: str, name: str) -> None:
    """Score the images of a model with every reward model."""
    from spin.rewards import load_scorer
    from spin.rewards.scoring import score_folder

    _check_named(params, prompt_set, name, [*params.evaluate.models, *params.evaluate.references])
    device = default_device()
    scorers = [load_scorer(scorer, given.source, device=device) for scorer, given in params.scorers.items()]
    images, scores = paths.SAMPLES / prompt_set / name, paths.SCORES / prompt_set / name
    score_folder(images, scorers, scores, params.evaluate.batch_size)


def run_tables(params: Params, prompt_set: str) -> None:
    """Compare all models on a prompt set: means, medians, winning rates, intervals."""
    from spin.evaluation.tables import write_tables

    _check_prompt_set(params, prompt_set)
    scores, tables = paths.SCORES / prompt_set, paths.TABLES / prompt_set
    write_tables(params, scores, tables, references=params.evaluate.references)
    summary = read_json(tables / "summary.json")
    compared = {name: summary[name] for name in ("win_rate_over_base", "mean")}
    write_json(paths.METRICS / f"{prompt_set}.json", compared)  # what `dvc metrics diff` compares


def run_report(params: Params) -> None:
    """Draw the figures and the page."""
    from spin.evaluation.report import write_report

    write_report(params, paths.OUTPUTS, paths.REPORT)


def run_register(params: Params) -> None:
    """List the iterations as model versions, with what each is and how it did."""
    from spin.registry import register_models

    register_models(params, Path.cwd())


def _check_named(params: Params, prompt_set: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ParamsError(
            f"--name must be one of {', '.join(known) or 'none'}, got {name}; correct the name."
        )
    _check_prompt_set(params, prompt_set)


def _check_prompt_set(params: Params, prompt_set: str) -> None:
    known = params.evaluate.prompt_sets
    if prompt_set not in known:
        raise ParamsError(f"--prompts must be one of {', '.join(known)}, got {prompt_set}; correct the name.")
