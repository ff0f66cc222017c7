"""A miniature project up to its opponents, and what a plain training of it gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.stages.projects import parameters, prepare
from tests.training.running import trained

PLAIN: list[dict[str, torch.Tensor]] = []
"""Trained once."""


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("engine"), tiny_base)


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project as the working folder, and accelerate's precision, which is per process, free to change."""
    monkeypatch.chdir(project)
    AcceleratorState._reset_state()
    yield project
    AcceleratorState._reset_state()


@pytest.fixture
def plain(inside: Path, tiny_base: Path) -> dict[str, torch.Tensor]:
    """Weights trained with the miniature parameters as they are."""
    if not PLAIN:
        PLAIN.append(trained(parameters(tiny_base))[0])
    return PLAIN[0]
