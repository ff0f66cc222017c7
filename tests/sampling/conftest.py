"""A project of each test module's own, with two iterates to draw opponents."""

from pathlib import Path

import pytest

from spin.stages.train import run_train
from tests.stages.projects import parameters, prepare


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a first iteration trained, so that iteration 2 has two iterates before it."""
    folder = prepare(tmp_path_factory.mktemp("opponents"), tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_train(parameters(tiny_base), "iter1")
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project
