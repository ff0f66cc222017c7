"""Scoring: every reward model on the images of one model, or of a level to read the tables against."""

from spin import paths
from spin.params.schema import Params
from spin.runtime.devices import default_device
from spin.runtime.files import replacing_dir
from spin.stages.work import check_item


def run_reference(params: Params, prompt_set: str, name: str) -> None:
    """Render and score a reference level, such as the embedded world's perfect images."""
    from spin.models.checkpoint import load_model
    from spin.sampling.clean import write_clean_samples

    check_item(params, prompt_set, name, params.evaluate.references)  # a model's samples lie beside it
    with replacing_dir(paths.SAMPLES / prompt_set / name) as out:
        base = load_model(paths.CHECKPOINTS / "base")
        write_clean_samples(out, base, paths.prompts_of(prompt_set), params)
    run_score(params, prompt_set, name)


def run_score(params: Params, prompt_set: str, name: str) -> None:
    """Score the images of a model with every reward model."""
    from spin.rewards.loading import load_scorer
    from spin.rewards.scoring import score_folder

    check_item(params, prompt_set, name, [*params.evaluate.models, *params.evaluate.references])
    device = default_device()
    scorers = [load_scorer(scorer, given.source, device=device) for scorer, given in params.scorers.items()]
    images, scores = paths.SAMPLES / prompt_set / name, paths.SCORES / prompt_set / name
    score_folder(images, scorers, scores, params.evaluate.batch_size)
