"""A miniature project of each test module's own, to run stages in."""

from pathlib import Path

import pytest

from tests.stages.projects import prepare


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the first iteration's opponents."""
    return prepare(tmp_path_factory.mktemp("project"), tiny_base)


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project
