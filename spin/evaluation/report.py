"""The report: all tables and figures of a run in one HTML file that needs nothing beside it."""

import base64
import io
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from spin.evaluation.figures import draw_curves, draw_radar, draw_scores, draw_winrates, save_figure, styled
from spin.evaluation.findings import findings, limits
from spin.evaluation.gallery import GalleryRow, draw_grid, read_gallery
from spin.evaluation.labels import model_colours, model_label, scorer_label
from spin.evaluation.lineage import costs, git_revision, read_curves, read_lineage
from spin.evaluation.measures import Measures
from spin.evaluation.notes import comparisons_line
from spin.evaluation.tables import build_tables, read_tables
from spin.files import replacing_dir
from spin.params import Params

LARGEST = 512
"""Side in pixels beyond which a gallery picture is scaled down for the page."""


def write_report(
    params: Params, tables: Path, samples: Path, curves: Path, checkpoints: Path, out: Path
) -> None:
    """Write the folder `out`: report.html, its figures as PNG and SVG, and the gallery's pictures in images/.

    `tables` is what `write_tables` wrote; `samples`, `curves` and `checkpoints` hold one entry per model.
    A reference of the tables appears in the gallery if `samples` has it.
    Raises `EvaluationError` if something of a model is missing.
    """
    measures, summary = read_tables(tables)
    models, references = list(params.evaluate.models), summary["references"]
    stages = [model for model in models if model != "base"]
    steps = read_curves(curves, stages)
    drawn = [*models, *(name for name in references if (samples / name).is_dir())]
    rows = read_gallery(samples, drawn, params.tables.grid_prompts)
    colours = model_colours([*models, *references], list(params.iterations))
    with replacing_dir(out) as folder:
        with styled():
            figures = {
                "winrates": draw_winrates(measures.winrates, colours, references),
                "scores": draw_scores(measures.means, list(params.iterations), colours, references),
                "radar": draw_radar(measures.means, colours, references),
                "curves": draw_curves(steps, colours),
                "grid": draw_grid(rows),
            }
            for name, figure in figures.items():
                save_figure(figure, folder / name)
        _copy_images(rows, folder / "images")
        page = _template().render(
            **_numbers(params, measures, summary),
            **_origin(params, checkpoints),
            colours=colours,
            gallery=[(row, {m: picture_uri(path) for m, path in row.images.items()}) for row in rows],
            gallery_models=drawn,
            champion=summary["champion"],
            figures={name: _data_uri(folder / f"{name}.svg", "image/svg+xml") for name in figures},
            costs=costs(steps, params.training.batch_size),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")


def _numbers(params: Params, measures: Measures, summary: dict[str, Any]) -> dict[str, Any]:
    """What the page says about scores."""
    return {
        "findings": findings(measures, summary, list(params.iterations)),
        "limits": limits(params, summary),
        "tables": build_tables(measures, summary),
        "comparisons": measures.comparisons.to_dict("records"),
        "comparisons_line": comparisons_line(measures.comparisons),
        "protocol": summary["protocol"],
        "statistics": summary["statistics"],
        "scorers": {name: summary["scorers"][name] for name in summary["statistics"]["scorers"]},
    }


def _origin(params: Params, checkpoints: Path) -> dict[str, Any]:
    """What the page says about where the numbers come from."""
    return {
        "revision": git_revision(Path.cwd()),
        "lineage": read_lineage(params, checkpoints),
        "parameters": yaml.safe_dump(params.model_dump(), sort_keys=False),
    }


def _template() -> Any:
    """Compile the page; all text is escaped, so a prompt cannot become markup."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"model": model_label, "scorer": scorer_label}
    source = resources.files("spin.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _copy_images(rows: Sequence[GalleryRow], folder: Path) -> None:
    for row in rows:
        for model, path in row.images.items():
            (folder / model).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / model / path.name)


def picture_uri(path: Path) -> Markup:
    """Embed a picture: pixel art as it is, anything larger as JPEG of at most `LARGEST` pixels a side."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if max(picture.size) < 128:
        return _data_uri(path, "image/png")
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return _encode(stream.getvalue(), "image/jpeg")


def _data_uri(path: Path, media_type: str) -> Markup:
    return _encode(path.read_bytes(), media_type)


def _encode(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")
