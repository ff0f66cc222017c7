"""The card of a model on the hub: what the export's README says, and data, tables with intervals, samples and licence."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin.evaluation.gallery import read_gallery, tile
from spin.evaluation.labels import model_label
from spin.models.reference import read_reference
from spin.runtime.hub import is_hub_id
from spin.runtime.sheets import labelled_sheet
from spin.tools.export.card import without_places
from spin.tools.export.recorded import Recorded

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from PIL import Image

SAMPLES = "samples.png"
SAMPLE_PROMPTS = 6
TABLES = ("winrate_over_base", "mean", "head_to_head", "diversity")
"""Tables of a prompt set that a card shows, where there are such."""


def hub_card(
    exported: Path, checkpoint: Path, repo: str, licence: str | None, recorded: Recorded
) -> "ModelCard":
    """The card of an export that is to be the repository `repo`, with the YAML that the hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    model = read_reference(checkpoint)
    base = model.get("base", model)
    on_hub = _is_on_hub(str(base["source"]))
    source = str(recorded.data.get("source", ""))
    data = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["spin-diffusion", *(["lora"] if "lora" in model else [])],
        base_model=base["source"] if on_hub else None,
        base_model_relation=("adapter" if "lora" in model else "finetune") if on_hub else None,
        datasets=[source] if _is_on_hub(source) else None,
    )
    sections = [
        without_places(_own_text(exported, repo), base),
        *_data_section(recorded.data),
        *_results(recorded, checkpoint.name),
        *_samples_section(recorded),
        f"## Licence\n\n{_licence_line(licence)}",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def sample_sheet(checkpoint: Path, recorded: Recorded) -> "Image.Image | None":
    """The base and the model on prompts at even distances through a set that both drew, or None."""
    if recorded.samples is None:
        return None
    rows = read_gallery(recorded.samples, list(dict.fromkeys(("base", checkpoint.name))), SAMPLE_PROMPTS)
    groups = [
        (row.prompt, [(model_label(name), tile(path)) for name, path in row.images.items()]) for row in rows
    ]
    return labelled_sheet(groups, columns=2)


def _own_text(exported: Path, repo: str) -> str:
    """The README of the export, its code with the repository in place of the folder or with the file brought from there."""
    from huggingface_hub import ModelCard

    if exported.is_file():
        text = str(ModelCard.load(exported.with_suffix(".md")).text)
        bring = f"`hf download {repo} {exported.name} --local-dir .` brings the file; then"
        text = text.replace("```python", f"{bring}\n\n```python", 1)
    else:
        text = str(ModelCard.load(exported / "README.md").text)
        for method in ("from_pretrained", "load_lora_weights"):  # a folder may be called as its subfolder
            text = text.replace(f'{method}("{exported.name}"', f'{method}("{repo}"')
    return text.strip()


def _data_section(card: Mapping[str, Any]) -> list[str]:
    if not card:
        return []
    source = str(card["source"])
    told = Path(source).name if Path(source).is_absolute() else source
    rows = {
        "source": f"{told} at {card['revision']}" if card.get("revision") else told,
        "rows read": card["rows_read"],
        **{f"dropped: {reason}": count for reason, count in card["dropped"].items()},
        **{f"kept: {what}": count for what, count in card["kept"].items()},
        "hash of the prepared data": card["md5"],
    }
    return [
        "\n".join(["## Data", "", "| | |", "|---|---|", *(f"| {name} | {rows[name]} |" for name in rows)])
    ]


def _results(recorded: Recorded, name: str) -> list[str]:
    sections = []
    for folder in recorded.tables:
        files = [folder / f"{table}.md" for table in TABLES]
        tables = [file.read_text(encoding="utf-8").strip() for file in files if file.is_file()]
        sections.append("\n\n".join([f"## Results on the prompts `{folder.name}`", *tables]))
    if sections:
        sections.append(f"This model is {model_label(name)}; in brackets stand intervals over prompts.")
    return sections


def _samples_section(recorded: Recorded) -> list[str]:
    if recorded.samples is None:
        return []
    return [
        f"## Samples\n\n![The base and this model on the same prompts]({SAMPLES})\n\nPrompts at even distances through the "
        f"set `{recorded.samples.name}`, so that nobody picked them; both models start from the same noise."
    ]


def _is_on_hub(source: str) -> bool:
    return is_hub_id(source) and not Path(source).exists()


def _licence_line(licence: str | None) -> str:
    said = "The terms of the base model apply to these weights."
    return said if licence is None else f"`{licence}`. {said}"
