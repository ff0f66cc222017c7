"""Tables and the report, shown on the flow run's page as artifacts."""

import base64
import io
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State

from spin.paths import REPORT, TABLES
from tasks.stage import run_stage, stage_task

GRID = REPORT / "grid.png"
MAX_GRID_SIDE = 1600
"""Pixels; an artifact is a row of Prefect's database, so the picture it shows is kept small."""


@stage_task(name="tables")
def tabulate(stage: str, root: Path) -> State[Any]:
    """Compute means, medians and winning rates, and show them."""
    state = run_stage(stage, root)
    if state.is_completed():
        publish_tables(root / TABLES / stage.partition("@")[2])
    return state


@stage_task(name="report")
def write_report(stage: str, root: Path) -> State[Any]:
    """Draw the figures and the page, and show the same-seed grid."""
    state = run_stage(stage, root)
    if state.is_completed():
        publish_grid(root / GRID)
    return state


def publish_tables(folder: Path) -> None:
    """Show every Markdown table of a prompt set's `folder` in one artifact, winning rates first."""
    tables = sorted(folder.glob("*.md"), key=lambda path: (not path.stem.startswith("winrate"), path.stem))
    if tables:
        text = "\n\n".join(
            f"## {path.stem.replace('_', ' ')}\n\n{path.read_text('utf-8')}" for path in tables
        )
        create_markdown_artifact(
            key=f"tables-{folder.name.replace('_', '-')}",
            markdown=text,
            description=f"Means, medians and winning rates on {folder.name}",
        )


def publish_grid(picture: Path) -> None:
    """Show the same-seed grid, embedded: the page must not depend on where the file lies."""
    if not picture.is_file():
        return
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((MAX_GRID_SIDE, MAX_GRID_SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    create_markdown_artifact(
        key="grid",
        markdown=f"![the same prompts and seeds, model by model](data:image/jpeg;base64,{data})",
        description="Same prompt, same seed: one column per model",
    )
