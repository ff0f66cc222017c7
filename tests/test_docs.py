"""The documentation names what is there, and its numbers are made by a command."""

import re
from pathlib import Path

import pytest

from spin.params.experimental import EXPERIMENTAL
from tests.test_layers import FLOORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
TOPS = {
    "spin",
    "tasks",
    "flows",
    "tests",
    "benchmarks",
    "examples",
    "docs",
    "profiles",
    "mlflow",
    ".ci",
    ".github",
}
"""What a project path begins with; what runs make is not looked for."""
STAMP = "made by `python -m benchmarks.pages`"

page_by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def links(page: Path) -> list[str]:
    """Targets of links and pictures inside the project, as written."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [target for target in targets if not target.startswith("http")]


def paths_named(page: Path) -> set[str]:
    """Project paths between backticks and in code blocks, such as `spin/method/losses.py`."""
    words = re.findall(
        r"[\w.*-]+(?:/[\w.*-]*)+", re.sub(r"\]\([^)]*\)|https?://\S+", " ", page.read_text("utf-8"))
    )
    return {word.rstrip(".") for word in words if word.split("/")[0] in TOPS}


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@page_by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@page_by_page
def test_project_paths_that_are_named_exist(page: Path) -> None:
    for name in paths_named(page):
        assert any(ROOT.glob(f"{name.rstrip('/')}*")), f"{page.name} names {name}"


@page_by_page
def test_modules_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"\b(?:spin|tasks|flows|benchmarks)(?:\.[a-z_]+)+", page.read_text("utf-8")):
        first = ROOT.joinpath(*name.split(".")[:2])
        assert (
            name in ("spin.newest", "spin.scorers", "spin.sha")
            or first.is_dir()
            or first.with_suffix(".py").is_file()
        ), name


@page_by_page
def test_stages_of_the_command_line_that_are_named_exist(page: Path) -> None:
    from spin.cli import _parser

    known = _parser().format_help()
    for command in re.findall(r"python -m spin ([a-z][a-z-]*)", page.read_text("utf-8")):
        assert re.search(rf"^    {command}\b", known, re.MULTILINE), f"{page.name}: spin {command}"


def test_the_help_lists_commands_in_groups() -> None:
    from spin.cli import _parser
    from spin.stages.table import STAGES

    groups = {}
    for block in _parser().format_help().split("\n\n"):
        heading, *lines = block.strip("\n").split("\n")
        groups[heading.split(",")[0].rstrip(":")] = [line.split()[0] for line in lines]
    assert groups["start here"] == ["init", "caption", "plan", "fetch"]
    assert set(groups["stages"]) == {stage.command for stage in STAGES.values()}
    assert {"sample", "score", "export"} <= {*groups["tools"], *groups["stages"]}


@page_by_page
def test_targets_of_make_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE):
        assert f"\n{target}:" in makefile, f"{page.name}: make {target}"


def test_experimental_settings_are_those_of_the_schema() -> None:
    section = (ROOT / "docs" / "training.md").read_text("utf-8").partition("## Experimental settings")[2]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert {name: tuple(values.replace("`", "").split(", ")) for name, values in rows} == EXPERIMENTAL


def test_the_map_has_every_room_on_its_floor() -> None:
    rows = re.findall(r"^\| (\d) \| (`.+?`) \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    rooms = {(int(floor), name) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert rooms == {(floor, name) for floor, names in enumerate(FLOORS) for name in names} - {
        (0, "__main__")
    }


def test_numbers_of_results_are_stamped_with_the_command_that_made_them() -> None:
    blocks = {
        "README.md": ("caption", "table"),
        "docs/results.md": ("study", "what holds", "what does not", "demo"),
    }
    for page, names in blocks.items():
        text = (ROOT / page).read_text("utf-8")
        assert [*re.findall(rf"<!-- (.+): {STAMP} -->", text)] == list(names)
        for name in names:
            block = text.partition(f"<!-- {name}: {STAMP} -->")[2].partition(f"<!-- end of {name} -->")[0]
            assert re.search(r"\d", block), f"{page}: {name} is empty"
