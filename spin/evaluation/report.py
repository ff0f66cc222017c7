"""The report: all tables and figures of a run in one HTML file that needs nothing beside it."""

import base64
import io
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from spin.evaluation.breakdown import read_breakdowns
from spin.evaluation.continual import curve_line, draw_curve
from spin.evaluation.figures import draw_curves, draw_radar, draw_winrates, radar_reach, save_figure, styled
from spin.evaluation.findings import findings, limits
from spin.evaluation.gallery import GalleryRow, draw_grid, read_gallery
from spin.evaluation.head_to_head import draw_head_to_head
from spin.evaluation.labels import model_colours, model_label, scorer_label
from spin.evaluation.lineage import costs, read_curves, read_lineage, revision_line
from spin.evaluation.measures import Measures
from spin.evaluation.notes import comparisons_line, intervals_line
from spin.evaluation.table import Table
from spin.evaluation.tables import build_tables, read_chosen, read_tables
from spin.evaluation.trajectory import draw_trajectory, steps_line, trajectories_of
from spin.params.sampling import RUN_ONLY
from spin.params.schema import Params
from spin.params.training import NOT_THE_METHOD
from spin.runtime.files import read_json, replacing_dir

LARGEST = 512
"""Side in pixels beyond which a gallery picture is scaled down for the page."""


COSTS_HERE = (
    "Device-time here, opponents included",
    "TFLOP",
    "Of what matrix products reach",
    "Most memory",
    "Energy",
)
COSTS_PLACE = '<script type="application/json" id="costs">{}</script>'
"""Columns of the page, and where it looks for them: empty, since what differs from run to run is no part of its bytes."""

NOT_SHOWN: dict[str, set[str] | bool] = {
    "cache": True,
    "opponents": {*RUN_ONLY, "shard_size"},
    "training": NOT_THE_METHOD,
    "evaluate": RUN_ONLY,
    "tracking": True,
}
"""Parameters that make no stage run again when they change: the page would go on saying what they were."""


def write_report(params: Params, outputs: Path, out: Path) -> None:
    """Write the folder `out`: report.html, its figures as PNG and SVG, and the galleries' pictures in images/.

    `outputs` holds tables/SET as `write_tables` wrote them, samples/SET/MODEL, curves and checkpoints. The main
    prompt set's figures lie in `out`, those of another in `out`/SET. A reference of the tables appears in the gallery
    if it was drawn. Raises `EvaluationError` if something of a model is missing.
    """
    trained = [model for model in params.evaluate.models if model in {*params.baselines, *params.iterations}]
    steps = read_curves(outputs / "curves", trained)
    colours = model_colours([*params.evaluate.models, *params.evaluate.references], list(params.iterations))
    with replacing_dir(out) as folder:
        sections = [_section(params, outputs, name, colours, folder) for name in params.evaluate.prompt_sets]
        with styled():
            curves = _draw({"curves": draw_curves(steps, colours)}, folder) if steps else {}
            continual = [
                _continual(params, outputs / "samples" / "continual" / name, folder)
                for name in params.continual
            ]
        page = _template().render(
            sections=sections,
            main=sections[0],
            **_origin(params, outputs / "checkpoints"),
            colours=colours,
            curves=curves,
            continual=continual,
            costs=costs(steps, params),
            here=COSTS_HERE,
            costs_here=Markup(COSTS_PLACE),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")


def _section(
    params: Params, outputs: Path, prompt_set: str, colours: dict[str, str], folder: Path
) -> dict[str, Any]:
    """What the page shows of one prompt set; its figures and pictures are written below `folder`."""
    tables, samples = outputs / "tables" / prompt_set, outputs / "samples" / prompt_set
    measures, summary = read_tables(tables)
    references = summary["references"]
    drawn = [*params.evaluate.models, *(name for name in references if (samples / name).is_dir())]
    rows = read_gallery(samples, drawn, params.tables.grid_prompts)
    place = folder if prompt_set == params.evaluate.main_prompt_set else folder / prompt_set
    place.mkdir(exist_ok=True)
    with styled():
        figures = {
            "winrates": draw_winrates(measures.winrates, colours, references),
            "head_to_head": draw_head_to_head(measures.duels),
            "radar": draw_radar(measures.means, colours, references),
            "grid": draw_grid(rows),
        }
        if trajectories_of(params):
            figures["scores"] = draw_trajectory(
                measures.comparisons, measures.means, trajectories_of(params), colours, references
            )
        embedded = _draw(figures, place)
    _copy_images(rows, place / "images")
    return {
        "name": prompt_set,
        **_numbers(params, measures, summary, read_chosen(tables), read_breakdowns(tables)),
        "gallery": [(row, {m: picture_uri(path) for m, path in row.images.items()}) for row in rows],
        "gallery_models": drawn,
        "champion": read_chosen(tables)["champion"],
        "figures": embedded,
    }


def _continual(params: Params, place: Path, folder: Path) -> dict[str, Any]:
    """What the page shows of one comparison of going on with moving on, which lies at `place`."""
    curve, protocol = pd.read_csv(place / "curve.csv"), read_json(place / "protocol.json")
    chosen = params.continual[place.name]
    return {
        "name": place.name,
        "chosen": chosen,
        "protocol": protocol,
        "figures": _draw({f"continual_{place.name}": draw_curve(curve)}, folder),
        "line": curve_line(curve, params.tables.confidence),
    }


def _draw(figures: dict[str, Figure], folder: Path) -> dict[str, Markup]:
    """Write figures as PNG and SVG and return the SVGs, embedded."""
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return {name: _data_uri(folder / f"{name}.svg", "image/svg+xml") for name in figures}


def _numbers(
    params: Params,
    measures: Measures,
    summary: dict[str, Any],
    chosen: dict[str, Any],
    breakdowns: list[Table],
) -> dict[str, Any]:
    """What the page says about scores."""
    return {
        "findings": findings(measures, summary, chosen),
        "limits": limits(params, summary),
        "tables": [*build_tables(measures, summary), *breakdowns],
        "steps_line": steps_line(measures.steps, params.tables.confidence),
        "radar_reach": radar_reach(measures.means, summary["references"]),
        "comparisons": measures.comparisons.to_dict("records"),
        "chosen_on": chosen["protocol"]["prompt_set"],
        "intervals_line": intervals_line(summary),
        "comparisons_line": comparisons_line(measures.comparisons),
        "protocol": summary["protocol"],
        "statistics": summary["statistics"],
        "scorers": {name: summary["scorers"][name] for name in summary["statistics"]["scorers"]},
    }


def _origin(params: Params, checkpoints: Path) -> dict[str, Any]:
    """What the page says about where the numbers come from."""
    return {
        "revision": revision_line(Path.cwd()),
        "lineage": read_lineage(params, checkpoints),
        "parameters": yaml.safe_dump(params.model_dump(exclude=NOT_SHOWN), sort_keys=False),
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
