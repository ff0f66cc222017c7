"""Which room may import which: one way only, no circles, and orchestration nowhere below."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from spin.runtime.code import imported

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    {"__main__"},
    {"cli"},
    {"tools", "stages"},
    {"training", "evaluation"},
    {"prompts", "sampling"},
    {"data"},
    {"models", "rewards", "tracking"},
    {"method", "toy", "params", "runtime"},
    {"seeding", "errors", "paths"},
)
"""The rooms of `spin`, each importing only what stands on a floor below; CONTRIBUTING.md draws it."""
FORBIDDEN = {
    "spin": {"prefect", "dvc", "tasks", "flows"},
    "tasks": {"flows", "mlflow"},
    "flows": {"mlflow"},
}

WITHOUT = """
import importlib, sys
from importlib.machinery import PathFinder

ABSENT = ("prefect", "dvc", "mlflow")

class Without(PathFinder):  # as on a machine where these were never installed: no module and no metadata
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **named):
        return (each for each in super().find_distributions(*arguments, **named)
                if not each.metadata["Name"].startswith(ABSENT))

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not set(ABSENT) & set(sys.modules)
"""


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def modules(package: str) -> list[str]:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files(package))
    return [name.removesuffix(".__init__") for name in names]


def packages_imported(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def room(module: str) -> str:
    return module.split(".")[1]


FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def test_every_room_has_its_floor() -> None:
    assert {room(module) for module in modules("spin") if module != "spin"} == FLOOR.keys()


@pytest.mark.parametrize("module", modules("spin"))
def test_a_room_imports_only_what_stands_below_it(module: str) -> None:
    if module == "spin":
        assert imported(module) == set()
        return
    for other in imported(module) - {"spin"}:
        below = FLOOR[room(other)] > FLOOR[room(module)]
        assert below or room(other) == room(module), f"{module} must not import {other}"


@pytest.mark.parametrize("package", ["spin", "tasks", "flows"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    # What is imported inside a function counts too; a package stands for its own __init__ alone.
    graph = {module: imported(module, package) - {module, package} for module in modules(package)}
    parents = {module: {module.rpartition(".")[0]} for module in graph}
    TopologicalSorter({module: graph[module] - parents[module] for module in graph}).prepare()


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    for path in files(package):
        assert not FORBIDDEN[package] & set(packages_imported(path)), path.relative_to(ROOT)


def test_only_tracking_knows_mlflow() -> None:
    knowing = {
        path.relative_to(ROOT).parts[1] for path in files("spin") if "mlflow" in set(packages_imported(path))
    }
    assert knowing <= {"tracking"}


def test_the_top_of_spin_is_nearly_empty() -> None:
    assert len(list((ROOT / "spin").glob("*.py"))) <= 6, "five modules beside __init__.py"


def test_mlflow_folder_holds_no_python() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py")), "a Python file in mlflow/ would shadow the library"


@pytest.mark.slow
def test_every_module_of_spin_imports_without_orchestration() -> None:
    names = [name for name in modules("spin") if not name.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
