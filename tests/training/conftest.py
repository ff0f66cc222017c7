"""A miniature project up to its opponents, and what a plain training of it gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from spin.models.checkpoint import load_model, reference_of
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams
from spin.runtime.files import write_json
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


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    base = BaseParams(source=str(tiny_base), revision=None, config=None, unet=None)
    write_json(checkpoint / "model.json", reference_of(base))
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def opponent(diffusion: LatentDiffusion) -> nn.Module:
    return diffusion.denoiser.eval().requires_grad_(False)


@pytest.fixture
def player(opponent: nn.Module) -> nn.Module:
    """The opponent, moved a little at random."""
    moved = type(opponent).from_config(opponent.config)  # type: ignore[attr-defined]
    moved.load_state_dict(opponent.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return moved
