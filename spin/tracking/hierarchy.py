"""How runs hang together in MLflow: an experiment, a parent run per configuration, below it a child run per stage."""

from pathlib import Path
from typing import Any

from spin.tracking.notes import Notes
from spin.tracking.writing import write_notes

TOKEN, STAGE, NEWEST, PARENT = "spin.token", "spin.stage", "spin.newest", "mlflow.parentRunId"
OUT = "dvc.out."
"""A tag for each output: its path behind this, DVC's hash as the value."""


def experiment_of(client: Any, experiment: dict[str, str | None]) -> str:
    """Return the id of the experiment {name, artifacts}, made if need be; `artifacts` is a place for a local store's files."""
    found = client.get_experiment_by_name(experiment["name"])
    if found is not None:
        return str(found.experiment_id)
    kind = {"mlflow.experimentKind": "custom_model_development"}  # opens on training runs, not on GenAI pages
    return str(
        client.create_experiment(experiment["name"], artifact_location=experiment["artifacts"], tags=kind)
    )


def parent_run(client: Any, experiment: str, parent: dict[str, Any]) -> str:
    """Return the run of the configuration {key, name, params}, made if need be; its children are the stages run under it."""
    found = client.search_runs([experiment], f"tags.`spin.configuration` = '{parent['key']}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {"spin.configuration": parent["key"], "spin.kind": "self-play"}
    run = client.create_run(experiment, tags=tags, run_name=parent["name"]).info.run_id
    write_notes(client, run, Notes(params=parent["params"]), Path(), 0)
    return str(run)


def child_run(client: Any, experiment: str, parent: str, opening: dict[str, Any]) -> str:
    """Make the run of a stage; if its making was not heard of the last time, find it."""
    found = client.search_runs([experiment], f"tags.`{TOKEN}` = '{opening['token']}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {PARENT: parent, TOKEN: opening["token"], **opening["tags"]}
    made = client.create_run(experiment, start_time=opening["at"], tags=tags, run_name=opening["stage"])
    return str(made.info.run_id)


def mark_newest(client: Any, experiment: str, parent: str, stage: str, run_id: str) -> None:
    """Mark a finished run as the newest of its stage under this configuration, and no other."""
    where = f"tags.`{PARENT}` = '{parent}' and tags.`{STAGE}` = '{stage}' and tags.`{NEWEST}` = 'true'"
    for older in client.search_runs([experiment], where):
        if older.info.run_id != run_id:
            client.set_tag(older.info.run_id, NEWEST, "false")
    client.set_tag(run_id, NEWEST, "true")


def finished_outputs(client: Any, experiment: str, configuration: str) -> dict[str, list[dict[str, str]]]:
    """What the finished runs of a configuration made: by stage, {path: DVC's hash} of each of its runs."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return {}
    where = f"tags.`spin.configuration` = '{configuration}'"
    parents = client.search_runs([found.experiment_id], where, max_results=1)
    outputs: dict[str, list[dict[str, str]]] = {}
    for parent in parents:
        where = f"tags.`{PARENT}` = '{parent.info.run_id}' and attributes.status = 'FINISHED'"
        page = None
        while page is None or page.token:
            page = client.search_runs([found.experiment_id], where, page_token=page.token if page else None)
            for run in page:
                made = {
                    key.removeprefix(OUT): value
                    for key, value in run.data.tags.items()
                    if key.startswith(OUT)
                }
                outputs.setdefault(run.data.tags[STAGE], []).append(made)
    return outputs
