"""Scoring: every reward model on the images of one model, or of a level to read the tables against."""

from spin import paths
from spin.params.schema import Params
from spin.rewards.strangers import warn_of_embedded
from spin.runtime.devices import default_device, process_state
from spin.runtime.files import replacing_dir
from spin.runtime.shards import wait_for_all
from spin.stages.work import check_item, digest_of, kept_work, shared_work


def run_reference(params: Params, prompt_set: str, name: str) -> None:
    """Render and score a reference level, such as the embedded world's perfect images."""
    from spin.models.checkpoint import load_model
    from spin.sampling.clean import write_clean_samples

    check_item(params, prompt_set, name, params.evaluate.references)  # a model's samples lie beside it
    if process_state().is_main_process:
        with replacing_dir(paths.SAMPLES / prompt_set / name) as out:
            base = load_model(paths.CHECKPOINTS / "base")
            write_clean_samples(out, base, paths.prompts_of(prompt_set), params)
    wait_for_all()
    run_score(params, prompt_set, name)


def run_score(params: Params, prompt_set: str, name: str) -> None:
    """Score the images of a model with every reward model; a killed run goes on where it was.

    Processes share the images; the first one puts the scores into place.
    """
    from spin.rewards.loading import load_scorer
    from spin.rewards.scoring import score_folder

    check_item(params, prompt_set, name, [*params.evaluate.models, *params.evaluate.references])
    if params.data.kind != "toy":
        warn_of_embedded({scorer: given.source for scorer, given in params.scorers.items()})
    images, scores = paths.SAMPLES / prompt_set / name, paths.SCORES / prompt_set / name

    # What the scores depend on; the images are decoded only if these files are whole.
    drawn = digest_of(*sorted(file for file in images.rglob("*") if file.is_file()))
    device = default_device()
    scorers = [load_scorer(scorer, given.source, device=device) for scorer, given in params.scorers.items()]
    judges = [(scorer.name, scorer.version, scorer.sha256, scorer.scale) for scorer in scorers]
    item, key = f"{prompt_set}-{name}", (drawn, judges)

    if not process_state().is_main_process:
        score_folder(images, scorers, scores, params.evaluate.batch_size, shared_work(run_score, item, *key))
        return
    with kept_work(scores, run_score, item, *key) as work:
        score_folder(images, scorers, scores, params.evaluate.batch_size, work)
