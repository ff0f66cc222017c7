"""The model registry: one thin entry per iteration, which points at the checkpoint that DVC keeps.

What is registered stands first in outputs/registry/registry.json; MLflow then gets the same, without a copy of weights.
"""

from pathlib import Path
from typing import Any

from spin.errors import EvaluationError
from spin.params.schema import Params
from spin.paths import CHECKPOINTS, REGISTRY, TABLES
from spin.runtime.files import read_json, replacing_dir, write_json
from spin.runtime.provenance import content_md5, git_revision
from spin.tracking.runs import forgiving

CHAMPION = "champion"
"""Alias of the iteration with the best average winning rate over the base."""


def register_models(params: Params, root: Path) -> list[dict[str, Any]]:
    """Register every iteration and name the champion; the same checkpoints a second time change nothing.

    Returns the entries of registry.json, in the order of the iterations. Raises `EvaluationError` if the tables or a
    checkpoint are missing.
    """
    entries = describe_models(params, root)
    with replacing_dir(root / REGISTRY) as folder:
        write_json(folder / "registry.json", {"name": params.tracking.registered_model, "models": entries})
    commit, dirty = git_revision(root)
    with forgiving(root) as client:
        if client is not None:
            write_versions(
                client, params.tracking.registered_model, entries, f"{commit}{'+' if dirty else ''}"
            )
    return entries


def describe_models(params: Params, root: Path) -> list[dict[str, Any]]:
    """Return for each iteration its checkpoint, the checkpoint's md5, its winning rate and whether it is champion.

    Nothing in it changes from run to run unless a checkpoint or the tables do.
    """
    summary_file = root / TABLES / params.evaluate.main_prompt_set / "summary.json"
    if not summary_file.is_file():
        raise EvaluationError(
            f"{summary_file} must hold the tables' summary, found none; run the stage tables@{params.evaluate.main_prompt_set} first."
        )
    summary = read_json(summary_file)
    entries = []
    for name in params.iterations:
        checkpoint = CHECKPOINTS / name
        if not (root / checkpoint).is_dir():
            raise EvaluationError(
                f"{checkpoint} must be a checkpoint, found none; run the stage train@{name} first."
            )
        win_rate = summary["win_rate_over_base"].get(name, {})
        entries.append(
            {
                "model": name,
                "source": f"dvc:///{checkpoint.as_posix()}",
                "md5": content_md5(root / checkpoint),
                "win_rate_over_base": {key: win_rate.get(key) for key in ("average", "low", "high")},
                CHAMPION: name == summary["champion"],
            }
        )
    return entries


def write_versions(client: Any, name: str, entries: list[dict[str, Any]], revision: str) -> None:
    """Write `entries` to MLflow's registry: a version per new md5, tags and the alias brought up to date."""
    if name not in {model.name for model in client.search_registered_models(f"name = '{name}'")}:
        client.create_registered_model(
            name, description="SPIN-Diffusion iterations; the weights are kept by DVC."
        )

    # A checkpoint that is there already gets its numbers anew, no second version.
    known = {
        (version.tags.get("model"), version.tags.get("dvc.md5")): version.version
        for version in client.search_model_versions(f"name = '{name}'")
    }
    for entry in entries:
        win_rate = entry["win_rate_over_base"]["average"]
        tags = {"win_rate_over_base": "" if win_rate is None else f"{win_rate:.4f}", "git.revision": revision}
        version = known.get((entry["model"], entry["md5"]))
        if version is None:
            tags |= {
                "model": entry["model"],
                "dvc.md5": entry["md5"],
                "dvc.path": entry["source"].removeprefix("dvc:///"),
            }
            made = client.create_model_version(
                name,
                entry["source"],
                tags=tags,
                description=f"{entry['model']}: `dvc pull {tags['dvc.path']}` at this revision brings the weights.",
            )
            version = made.version
        else:
            client.set_model_version_tag(name, version, "win_rate_over_base", tags["win_rate_over_base"])
        if entry[CHAMPION]:
            client.set_registered_model_alias(name, CHAMPION, version)
