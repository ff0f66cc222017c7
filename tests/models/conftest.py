"""Tiny models and checkpoints that several tests of models read, made once."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from spin.models.checkpoint import load_model, save_checkpoint
from spin.runtime.files import replacing_dir
from spin.tools.export.single_file import single_file_tensors
from spin.training.networks import load_networks
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, record_base
from tests.models.tiny import write_tiny_base
from tests.models.tiny_families import WRITERS, write_tiny_sd2, write_tiny_sd3, write_tiny_sdxl


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "mine"))


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of the other families, and another one of the base's."""
    folder = tmp_path_factory.mktemp("others")
    write_tiny_base(folder / "sd", seed=1)
    write_tiny_sd2(folder / "sd2")
    write_tiny_sdxl(folder / "sdxl")
    write_tiny_sd3(folder / "sd3")
    return folder


@pytest.fixture(scope="session")
def single_files(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the others in one file each with the original names, in fp16 as such files often are."""
    folder = tmp_path_factory.mktemp("single")
    for name in ("sd", "sd2", "sdxl"):
        tensors = single_file_tensors(load_model(record_base(folder / name, base_params(others / name))))
        half = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
        save_file(half, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="session")
def single_file(single_files: Path) -> Path:
    """Of Stable Diffusion 1.x."""
    return single_files / "sd.safetensors"


@pytest.fixture(scope="session")
def checkpoints(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, iter1 and iter2, each iteration an adapter that was moved a good deal from the one before."""
    folder = tmp_path_factory.mktemp("checkpoints")
    record_base(folder / "base", base_params(tiny_base))
    for name, prev in (("iter1", "base"), ("iter2", "iter1")):
        player = load_networks(folder / prev, CPU, LORA).player
        move(player)
        with replacing_dir(folder / name) as out:
            save_checkpoint(out, name, player, folder / prev)
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family, and of two that differ from theirs in a part."""
    folder = tmp_path_factory.mktemp("families")
    for name, write in WRITERS.items():
        write(folder / name)
    write_tiny_sd3(folder / "sd3-without-t5", t5=False, shift=1.0)
    write_tiny_sdxl(folder / "sdxl-without-zeros", force_zeros_for_empty_prompt=False)
    return {path.name: path for path in folder.iterdir() if (path / "model_index.json").is_file()}
