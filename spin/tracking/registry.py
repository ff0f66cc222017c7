"""The model registry: a version per iteration, which loads by `mlflow.pyfunc` and leaves the weights to DVC.

What is registered stands first in outputs/registry/registry.json; MLflow gets the same, with a logged model that knows the
checkpoint by its hash (`spin.tracking.thin_model`), the run that trained it and how it did.
"""

import tempfile
from pathlib import Path
from typing import Any

from spin.tracking.hierarchy import OUT
from spin.tracking.promotion import CHALLENGER, champion_of
from spin.tracking.thin_model import save_thin_model


def write_versions(
    client: Any, experiment: str, run_id: str, models: dict[str, Any], files: Path, at_ms: int
) -> None:
    """Write what the stage `register` noted: a version per new checkpoint, its tags, the best of the run as challenger.

    `models` has the registered model's name, the entries of registry.json, the git revision, the name and digest of the
    prompts that the models were compared on, and the names below `files` of what is kept with a version: dvc.lock, the
    parameters, DVC's configuration. `run_id` is the run of the stage, which ended at `at_ms`.
    """
    name = models["name"]
    if name not in {model.name for model in client.search_registered_models(f"name = '{name}'")}:
        client.create_registered_model(
            name, description="SPIN-Diffusion iterations; the weights are kept by DVC."
        )
    known = {
        (version.tags.get("model"), version.tags.get("dvc.md5")): version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.source.startswith("models:/")  # others were made before versions could be loaded
    }

    # A checkpoint that is there already gets its numbers anew, no second version.
    for step, entry in enumerate(models["entries"], start=1):
        version = known.get((entry["model"], entry["md5"]))
        if version is None:
            version = _new_version(client, experiment, name, entry, models, files)
        _tell_rates(client, run_id, version.source, entry, (at_ms, step), models["prompts"])
        for key, value in _tags(entry).items():
            client.set_model_version_tag(name, version.version, key, value)
        if entry["champion"] and str(getattr(champion_of(client, name), "version", "")) != str(
            version.version
        ):
            client.set_registered_model_alias(name, CHALLENGER, version.version)


def _tags(entry: dict[str, Any]) -> dict[str, str]:
    """How it did, and where its scores are kept: what the gate compares a challenger with."""
    tags = {
        "win_rate_over_base": str(entry["win_rate_over_base"]["average"]),
        "dvc.scores": entry["scores"]["path"],
    }
    return tags | {f"dvc.{file}": md5 for file, md5 in entry["scores"]["md5"].items()}


def _new_version(
    client: Any, experiment: str, name: str, entry: dict[str, Any], models: dict[str, Any], files: Path
) -> Any:
    """Log the model that loads the checkpoint, as made by the run that trained it, and make a version of it."""
    path = entry["path"]
    trained = client.search_runs([experiment], f"tags.`{OUT}{path}` = '{entry['md5']}'", max_results=1)
    trained_by = trained[0].info.run_id if trained else None
    tags = {
        "model": entry["model"],
        "dvc.md5": entry["md5"],
        "dvc.path": path,
        "git.revision": models["revision"],
    }
    made = client.search_logged_models([experiment], f"tags.`dvc.md5` = '{entry['md5']}'")
    logged = next((each for each in made if each.name == entry["model"] and each.status == "READY"), None)
    if logged is None:
        logged = client.create_logged_model(
            experiment, name=entry["model"], source_run_id=trained_by, tags=tags, model_type="diffusion"
        )
        with tempfile.TemporaryDirectory() as folder:
            save_thin_model(Path(folder) / "model", entry, [files / each for each in models["files"]])
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
    return client.create_model_version(
        name,
        f"models:/{logged.model_id}",
        run_id=trained_by,
        model_id=logged.model_id,
        tags=tags,
        description=f"{entry['model']}: mlflow.pyfunc.load_model loads it and brings the weights by DVC. The dvc.lock among "
        f"its artifacts, in a clone of the project, is for `dvc pull {path}`.",
    )


def _tell_rates(
    client: Any, run_id: str, source: str, entry: dict[str, Any], at: tuple[int, int], prompts: list[str]
) -> None:
    """Note the winning rates on the logged model, `at` a time and step, with the name and digest of the prompts."""
    from mlflow.entities import Metric

    model_id = source.removeprefix("models:/")
    rates = {key: value for key, value in entry["win_rate_over_base"].items() if value is not None}
    metrics = [
        Metric(f"win_rate_over_base.{key}", value, *at, model_id, *prompts) for key, value in rates.items()
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)
