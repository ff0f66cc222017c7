"""Fixtures that cost seconds and are shared: a Prefect server for the session, and a miniature DVC project."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

for name in [name for name in os.environ if name.startswith("SLURM_")]:
    del os.environ[name]  # in a job of several machines the stages of the tests would become sruns


LONGEST = (
    "test_pipeline.py",
    "test_two_clones.py",
    "test_workspace.py",
    "test_ui.py",
    "test_team_servers.py",
    "test_flow.py",
    "test_launch.py",
    "test_mending.py",
    "test_paper.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of two workers neither waits for one at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server for all tests, its database in a temporary folder (about 10 s to start)."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    import flows.environment  # noqa: F401  (its switches stand before Prefect is imported)

    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture
def dvc_project(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a DVC project in a temporary folder from the text of its dvc.yaml."""

    def make(stages: str) -> Path:
        (tmp_path / "dvc.yaml").write_text(stages, encoding="utf-8")
        for arguments in (
            ["init", "--no-scm", "-q"],
            ["config", "core.analytics", "false"],
            ["config", "core.check_update", "false"],
        ):
            subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
        return tmp_path

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and fixtures beside the project; tests that read it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("reads ../shared, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion in diffusers layout."""
    from tests.models.tiny import write_tiny_base

    folder = tmp_path_factory.mktemp("tiny") / "base"
    write_tiny_base(folder)
    return folder
