"""Which package may import which: spin <- tasks <- flows, and orchestration nowhere below."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "spin": {"prefect", "dvc", "tasks", "flows"},
    "tasks": {"flows", "mlflow"},
    "flows": {"mlflow"},
}
KNOW_MLFLOW = {"spin/cli.py", "spin/tracking.py"}

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


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    for path in modules(package):
        assert not FORBIDDEN[package] & set(imported(path)), path.relative_to(ROOT)


def test_only_the_cli_and_tracking_know_mlflow() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix() for path in modules("spin") if "mlflow" in set(imported(path))
    }
    assert knowing <= KNOW_MLFLOW


def test_mlflow_folder_holds_no_python() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py")), "a Python file in mlflow/ would shadow the library"


@pytest.mark.slow
def test_every_module_of_spin_imports_without_orchestration() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules("spin")
        if path.name != "__main__.py"
    ]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
