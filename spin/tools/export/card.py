"""What an exported model is: base, lineage and hyperparameters, for people (README.md) and programs (export.json)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spin.models.bases import Base
from spin.models.digests import recorded_digest
from spin.models.reference import MODEL_FILE, read_reference
from spin.params.model import EMBEDDED
from spin.runtime.provenance import content_md5
from spin.tools.export.loading import for_programs, loading_code
from spin.tools.export.recorded import recorded_of


def describe(checkpoint: Path, format_name: str, dtype: str, root: Path) -> dict[str, Any]:
    """Collect what export.json says: the checkpoint, what it was trained from, step by step, and how."""
    model = read_reference(checkpoint)
    return {
        "format": format_name,
        "dtype": dtype,
        "name": model.get("name", "base"),
        "base": model.get("base", model),
        "lineage": _lineage(checkpoint, model),
        "lora": model.get("lora"),
        "training": _recorded_parameters(root, checkpoint),
        "trigger": recorded_of(checkpoint, root).data.get("trigger"),
    }


def shareable(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card for the header of a file, which is passed on as it is: without local paths of the base."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(each) for key, each in value.items()}
        if isinstance(value, list):
            return [clean(each) for each in value]
        return without_places(value, card["base"]) if isinstance(value, str) else value

    cleaned: dict[str, Any] = clean(card)
    return cleaned


def without_places(text: str, base: Mapping[str, Any]) -> str:
    """The text with local paths of the base as their last names: where a file lies here is nobody else's matter."""
    given = [base["source"], base.get("config"), (base.get("unet") or {}).get("source")]
    for source in given:
        if source and source not in EMBEDDED and Path(source).exists():
            for path in (str(Path(source).resolve()), str(source)):
                text = text.replace(path, Path(source).name)
    return text


def _recorded_parameters(root: Path, checkpoint: Path) -> dict[str, Any] | None:
    """The parameters of the stage that made exactly these bytes, by the dvc.lock in `root`; None if it tells of none."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        return None
    md5 = content_md5(checkpoint)
    for stage in (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {}).values():
        if any(out.get("md5") == md5 for out in stage.get("outs", [])):
            recorded: dict[str, Any] | None = stage.get("params", {}).get("params.yaml")
            return recorded
    return None


def _lineage(checkpoint: Path, model: Mapping[str, Any]) -> list[dict[str, str]]:
    """The trained ancestors, oldest first, as far as their checkpoints are still beside this one."""
    if "base" not in model:
        return []
    own = {"name": str(model["name"]), "sha256": recorded_digest(model)}
    if "prev" not in model:
        return [own]
    earlier = checkpoint.parent / str(model["prev"]["checkpoint"])
    if (earlier / MODEL_FILE).is_file():
        return [*_lineage(earlier, read_reference(earlier)), own]
    return [{"name": earlier.name, "sha256": recorded_digest(model["prev"])}, own]


def model_card(card: Mapping[str, Any], base: Base, place: str) -> str:
    """The README of an export called `place`, over `base`."""
    named = card["base"]
    weights = named["source"] + (f" at revision {named['revision']}" if named["revision"] else "")
    if named.get("unet"):
        weights += f" with the {base.family.denoiser_folder} of {named['unet']['source']}"
    lineage = " -> ".join(["base", *(f"{each['name']} ({each['sha256'][:12]})" for each in card["lineage"])])
    sections = [
        "---\nlibrary_name: diffusers\npipeline_tag: text-to-image\ntags: [spin-diffusion]\n---",
        f"# {card['name']}",
        "Fine-tuned with SPIN-Diffusion (self-play, arXiv:2402.10210) by spin-diffusion."
        if card["lineage"]
        else "The base model, exported by spin-diffusion.",
        f"| | |\n|---|---|\n| base | {weights} ({named['family']}) |\n| lineage | {lineage} |\n"
        f"| weights | {card['dtype']}{_adapter(card['lora'])} |" + _trigger(card["trigger"]),
        f"From the folder that `{place}` lies in:\n\n```python\n{loading_code(card['format'], base, place, card['dtype'])}\n```",
    ]
    elsewhere = for_programs(card["format"], base, place)
    if elsewhere is not None:
        sections.append(elsewhere)
    if card["training"] is not None:
        hyperparameters = json.dumps(card["training"], indent=2, sort_keys=True)
        sections.append(f"## Training\n\n```json\n{hyperparameters}\n```")
    sections.append("The terms of the base model apply to these weights too. No safety checker is included.")
    return "\n\n".join(sections) + "\n"


def _trigger(trigger: str | None) -> str:
    """A row of the table: a prompt without the word does not ask for what was taught."""
    return "" if trigger is None else f"\n| trigger | `{trigger}`, to be written in every prompt |"


def _adapter(lora: Mapping[str, Any] | None) -> str:
    return "" if lora is None else f", LoRA of rank {lora['rank']} and alpha {lora['alpha']:g}"
