"""Tables and the report, shown on the flow run's page as artifacts."""

import base64
import io
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from spin.paths import REPORT, TABLES
from tasks.stage import stage_task

GRID = REPORT / "grid.png"
MAX_GRID_SIDE = 1600
"""Pixels; an artifact is a row of Prefect's database, so the picture it shows is kept small."""


def publish_tables(stage: str, root: Path) -> None:
    """Show every Markdown table of a prompt set in one artifact, winning rates first."""
    folder = root / TABLES / stage.partition("@")[2]
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


def publish_grid(stage: str, root: Path) -> None:
    """Show the same-seed grid, embedded: the page must not depend on where the file lies."""
    picture = root / GRID
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


tabulate = stage_task("tables", show=publish_tables)
write_report = stage_task("report", show=publish_grid)
