"""The model registry: a version for each iteration, the best of them, head to head, the champion."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from spin.errors import EvaluationError
from spin.models.reference import read_reference
from spin.params.schema import Params
from spin.paths import CHECKPOINTS, REGISTRY, SCORES, TABLES, prompts_of
from spin.runtime.files import read_json, replacing_dir, write_json
from spin.runtime.provenance import content_md5
from spin.runtime.sums import check_folder, checked_digest

SCORE_FILES = ("scores.parquet", "summary.json")


def run_register(params: Params) -> None:
    """List the iterations as model versions, with what each is and how it did."""
    entries = describe_models(params)
    with replacing_dir(REGISTRY) as folder:
        write_json(folder / "registry.json", {"name": registered_name(params), "models": entries})


def registered_name(params: Params, root: Path = Path()) -> str:
    """The registered model: one for each base and way of comparing, so that what cannot be compared never replaces another.

    `tracking.registered_model`, the base's name, and 8 hex digits of the base's weights, the protocol, the prompts that
    choose and the scorers.
    """
    from spin.evaluation.champion import choosing_set

    base, chosen_on = read_reference(root / CHECKPOINTS / "base"), choosing_set(params)
    summary = _summary_of(chosen_on, root)
    decides = {
        "base": {key: value for key, value in base.items() if key not in ("source", "revision")},
        "prompts": checked_digest(root / prompts_of(chosen_on)),
        **{key: summary[key] for key in ("protocol", "scorers")},
        "average_of": summary["statistics"]["average_of"],
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    short = re.sub("[^a-z0-9]+", "-", Path(str(base["source"])).name.lower()).strip("-")
    return f"{params.tracking.registered_model}-{short}-{digest}"


def describe_models(params: Params, root: Path = Path()) -> list[dict[str, Any]]:
    """Return for each iteration its checkpoint, the checkpoint's md5, its winning rates and whether it is champion.

    The champion is that of the prompt set that chooses; its meetings with the other iterations stand beside it.
    Nothing in it changes from run to run unless a checkpoint or the tables do. Raises `EvaluationError` if the tables or a
    checkpoint are missing.
    """
    from spin.evaluation.champion import choosing_set, met

    summary = _summary_of(params.evaluate.main_prompt_set, root)
    chosen_on = choosing_set(params)
    chosen = _summary_of(chosen_on, root)
    entries = []
    for name in params.iterations:
        checkpoint = CHECKPOINTS / name
        if not (root / checkpoint).is_dir():
            raise EvaluationError(
                f"{checkpoint} must be a checkpoint, found none; run the stage train@{name} first."
            )
        check_folder(root / checkpoint)
        win_rate = summary["win_rate_over_base"].get(name, {})
        entries.append(
            {
                "model": name,
                "path": checkpoint.as_posix(),
                "md5": content_md5(root / checkpoint),
                "win_rate_over_base": {key: win_rate.get(key) for key in ("average", "low", "high")},
                "champion": name == chosen["champion"],
                "chosen_on": chosen_on,
                "scores": {
                    "path": (SCORES / chosen_on / name).as_posix(),
                    "md5": {
                        file: content_md5(root / SCORES / chosen_on / name / file) for file in SCORE_FILES
                    },
                },
                "head_to_head": met(chosen, name, [other for other in params.iterations if other != name]),
            }
        )
    return entries


def _summary_of(prompt_set: str, root: Path) -> Any:
    file = root / TABLES / prompt_set / "summary.json"
    if not file.is_file():
        raise EvaluationError(
            f"{file} must hold the tables' summary, found none; run the stage tables@{prompt_set} first."
        )
    return read_json(file)
