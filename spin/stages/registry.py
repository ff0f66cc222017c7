"""The model registry: a version for each iteration, the best of them the champion."""

from pathlib import Path
from typing import Any

from spin.errors import EvaluationError
from spin.params.schema import Params
from spin.paths import CHECKPOINTS, REGISTRY, TABLES
from spin.runtime.files import read_json, replacing_dir, write_json
from spin.runtime.provenance import content_md5


def run_register(params: Params) -> None:
    """List the iterations as model versions, with what each is and how it did."""
    entries = describe_models(params)
    with replacing_dir(REGISTRY) as folder:
        write_json(folder / "registry.json", {"name": params.tracking.registered_model, "models": entries})


def describe_models(params: Params, root: Path = Path()) -> list[dict[str, Any]]:
    """Return for each iteration its checkpoint, the checkpoint's md5, its winning rate and whether it is champion.

    Nothing in it changes from run to run unless a checkpoint or the tables do. Raises `EvaluationError` if the tables or a
    checkpoint are missing.
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
                "path": checkpoint.as_posix(),
                "md5": content_md5(root / checkpoint),
                "win_rate_over_base": {key: win_rate.get(key) for key in ("average", "low", "high")},
                "champion": name == summary["champion"],
            }
        )
    return entries
