"""Every export draws, when loaded by the code on its own card, what the exported pipeline draws: over the very base."""

import shutil
import socket
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spin.models.bases import Base
from spin.models.checkpoint import load_model, save_checkpoint
from spin.models.stable_diffusion import StableDiffusion
from spin.runtime.files import replacing_dir
from spin.tools.export.formats import FILE_FORMATS, FORMATS, export_checkpoint
from spin.tools.export.loading import for_programs, loading_code
from spin.tools.export.single_file import single_file_tensors
from spin.training.networks import load_networks
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, halved, record_base
from tests.models.tiny import write_tiny_base
from tests.models.tiny_families import write_tiny_sdxl
from tests.tools.latents import their_pixels


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Bases by family and kind. A single file has other weights than the folder that its config is taken from."""
    folder = tmp_path_factory.mktemp("sources")
    found = {}
    for name in ("sd", "sdxl"):
        if name == "sd":
            write_tiny_base(folder / name, seed=3)
            write_tiny_base(folder / "sd-config", seed=4)
        else:
            write_tiny_sdxl(folder / name, force_zeros_for_empty_prompt=False)
            write_tiny_sdxl(folder / "sdxl-config", force_zeros_for_empty_prompt=False, seed=5)
        model = load_model(record_base(folder / f"{name}-base", base_params(folder / name)))
        tensors = {key: tensor.half().contiguous() for key, tensor in single_file_tensors(model).items()}
        save_file(tensors, folder / f"{name}.safetensors")
        found[name] = {
            "folder": {"source": folder / name},
            "variant": {"source": halved(folder / name, folder / f"{name}-fp16")},
            "file": {"source": folder / f"{name}.safetensors", "config": folder / f"{name}-config"},
        }
    return found


def train(folder: Path, base: dict[str, Any], lora: bool) -> Path:
    start = record_base(folder / "base", base_params(**base))
    player = load_networks(start, CPU, LORA if lora else None).player
    move(player, 0.1 if lora else 0.02)
    with replacing_dir(folder / "iter1") as out:
        save_checkpoint(out, "iter1", player, start)
    return folder / "iter1"


def loaded_by_its_card(checkpoint: Path, format_name: str, where: Path, dtype: str = "fp32") -> Any:
    """Export, and do as the card says, in the folder where the export lies."""
    single = format_name in FILE_FORMATS
    place = where / ("model.safetensors" if single else "model")
    where.mkdir()
    export_checkpoint(checkpoint, format_name, place, dtype, force=False)
    text = (where / "model.md" if single else place / "README.md").read_text()
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    said: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        exec(code, said)
    return said["pipeline"]


def largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize(
    ("name", "kind", "lora"),
    [*product(("sd", "sdxl"), ("folder", "file"), (True, False)), ("sdxl", "variant", True)],
)
def test_every_export_loaded_by_its_card_draws_the_same_image(
    sources: dict[str, Any], tmp_path: Path, offline: None, name: str, kind: str, lora: bool
) -> None:
    checkpoint = train(tmp_path, sources[name][kind], lora)
    formats = [each for each in FORMATS if lora or each not in ("lora", "kohya")]
    drawn = {each: their_pixels(loaded_by_its_card(checkpoint, each, tmp_path / each)) for each in formats}
    base = their_pixels(loaded_by_its_card(tmp_path / "base", "pipeline", tmp_path / "untrained"))
    assert largest_difference(drawn["pipeline"], base) > 20, "training is seen in the image"
    for each in formats:
        assert largest_difference(drawn[each], drawn["pipeline"]) <= 1, each


@pytest.mark.parametrize("at", ["", "unet"])
def test_the_card_lays_the_denoiser_over_the_base_that_was_laid_over_it_in_training(
    sources: dict[str, Any], tmp_path: Path, offline: None, at: str
) -> None:
    write_tiny_base(tmp_path / "other", seed=6)
    shutil.copytree(tmp_path / "other" / "unet", tmp_path / "over" / at)
    checkpoint = train(tmp_path, {**sources["sd"]["file"], "unet": tmp_path / "over"}, lora=True)
    expected = their_pixels(loaded_by_its_card(checkpoint, "pipeline", tmp_path / "pipeline"))
    for each in ("lora", "kohya", "unet"):
        drawn = their_pixels(loaded_by_its_card(checkpoint, each, tmp_path / each))
        assert largest_difference(drawn, expected) <= 1, each


def test_the_card_loads_the_base_that_comes_with_the_package(tmp_path: Path, offline: None) -> None:
    checkpoint = train(tmp_path, {"source": "embedded"}, lora=True)
    expected, *drawn = (
        their_pixels(loaded_by_its_card(checkpoint, each, tmp_path / each))
        for each in ("pipeline", "kohya", "single-file")
    )
    assert all(largest_difference(each, expected) <= 1 for each in drawn)


def test_a_base_named_from_the_project_is_found_from_where_the_export_lies(
    sources: dict[str, Any], tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sources["sd"]["folder"]["source"], tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    checkpoint = train(tmp_path, {"source": "mine"}, lora=True)
    assert loaded_by_its_card(checkpoint, "lora", tmp_path / "elsewhere")


def test_all_of_an_export_in_half_precision_is_loaded_in_it_and_draws(
    sources: dict[str, Any], tmp_path: Path, offline: None
) -> None:
    checkpoint = train(tmp_path, sources["sdxl"]["file"], lora=True)
    for each in FORMATS:
        pipeline = loaded_by_its_card(checkpoint, each, tmp_path / each, "bf16")
        networks = (part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
        base = {
            weight.dtype for part in networks for key, weight in part.named_parameters() if "lora" not in key
        }
        assert base == {torch.bfloat16}, each
        assert their_pixels(pipeline).shape == (32, 32, 3)


def test_the_card_names_the_hub_commit_and_where_other_programs_look_for_the_file(tiny_base: Path) -> None:
    hub = Base("owner/name", StableDiffusion, tiny_base, "abc", None, None, None, None)
    file = replace(hub, source="x.safetensors", config="owner/name", file=Path("x.safetensors"))
    assert 'from_pretrained("owner/name", revision="abc", dtype' in loading_code("lora", hub, "mine", "fp32")
    expected = 'from_single_file("x.safetensors", config="owner/name", revision="abc", dtype'
    assert expected in loading_code("lora", file, "mine", "fp32")
    told = for_programs("kohya", hub, "mine.safetensors")
    assert told is not None
    assert "`models/loras`" in told
    assert "<lora:mine:1>" in told
    assert "--format single-file" in told
    assert "--format single-file" not in str(for_programs("kohya", file, "mine.safetensors"))
    assert for_programs("lora", hub, "mine") is None
