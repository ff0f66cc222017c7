"""Stages that draw: what is drawn repeats, and what a killed run drew is kept."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spin.params.schema import Params
from spin.runtime.files import read_json, sha256_tree
from spin.stages.data import run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_reference
from tests.stages.kept import work_of
from tests.stages.projects import parameters, raw_parameters


def test_opponents_are_one_per_caption_and_reproducible(inside: Path, tiny_base: Path) -> None:
    folder = Path("outputs/opponents/iter1")
    manifest = pd.read_parquet("outputs/data/manifest.parquet")
    drawn = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("shard-*/images.parquet"))])
    assert list(drawn["id"]) == list(manifest["id"])
    digest = sha256_tree(folder)
    run_opponents(parameters(tiny_base), "iter1")
    assert sha256_tree(folder) == digest


def test_finished_shards_are_kept_by_a_rerun_and_only_by_the_same_work(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spin.sampling.opponents

    params, drawn = parameters(tiny_base), []
    original = spin.sampling.opponents.sample_images

    def failing(*arguments: object) -> object:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    digest = sha256_tree(Path("outputs/opponents/iter1"))
    monkeypatch.setattr(spin.sampling.opponents, "sample_images", failing)
    with pytest.raises(KeyboardInterrupt):
        run_opponents(params, "iter1")
    assert sha256_tree(Path("outputs/opponents/iter1")) == digest, (
        "the finished output stays until the new one is whole"
    )
    drawn.append(1)  # from here on it draws
    monkeypatch.setattr(
        spin.sampling.opponents, "sample_images", lambda *a: (drawn.append(1), original(*a))[1]
    )
    run_opponents(params, "iter1")
    assert len(drawn) == 4, "two of the three shards were kept, one was drawn"
    assert sha256_tree(Path("outputs/opponents/iter1")) == digest


def test_what_opponents_depend_on_names_their_work(inside: Path, tiny_base: Path) -> None:
    def work(**changes: Any) -> str:
        return work_of(run_opponents, Params.model_validate(raw_parameters(tiny_base) | changes), "iter1")

    raw = raw_parameters(tiny_base)
    others = [
        {"seed": 1},
        {"training": raw["training"] | {"horizontal_flip": True}},
        {"opponents": raw["opponents"] | {"guidance_scale": 2.0}},
    ]
    assert len({work(), *(work(**changes) for changes in others)}) == 4
    assert work(opponents=raw["opponents"] | {"batch_size": 2}) == work()


def test_images_drawn_before_a_kill_are_found_again(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spin.sampling.samples

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    params = parameters(tiny_base)
    run_prompt_set(params, "test")
    with monkeypatch.context() as patch:
        patch.setattr(
            spin.sampling.samples, "write_json", killed
        )  # after the images are in place, before the folder is
        with pytest.raises(KeyboardInterrupt):
            run_generate(params, "test", "base")
    samples = Path("outputs/samples/test/base")
    assert not samples.exists(), "nothing half-written"
    run_generate(params, "test", "base")
    listed = pd.read_parquet(samples / "manifest.parquet")
    assert len(listed) == 4
    assert all((samples / image).is_file() for image in listed["image"])


def test_a_level_has_one_image_a_prompt_whatever_the_models_draw(inside: Path, tiny_base: Path) -> None:
    raw = raw_parameters(
        tiny_base, prompt_sets={"test": {"images_per_prompt": 3}}, tables={"average_of": ["clip"]}
    )
    raw["scorers"] = {"clip": raw["scorers"]["clip"]}
    params = Params.model_validate(raw)
    run_prompt_set(params, "test")
    run_reference(params, "test", "clean")
    samples, scores = Path("outputs/samples/test/clean"), Path("outputs/scores/test/clean")
    assert len(pd.read_parquet(samples / "manifest.parquet")) == 4
    assert read_json(samples / "protocol.json")["images_per_prompt"] == 1
    assert "diversity" not in read_json(scores / "summary.json"), "of copies it would be 0"


def held_up(patch: pytest.MonkeyPatch, module: ModuleType, write: str) -> list[torch.Tensor]:
    """Let `write` wait until a second batch is being drawn; returns what will hold all images drawn, by batch."""
    drawn: list[torch.Tensor] = []
    second = threading.Event()
    draw: Callable[..., Any] = vars(module)["sample_images"]
    written: Callable[..., Any] = vars(module)[write]

    def noted(*arguments: Any) -> Any:
        if drawn:
            second.set()
        images, latents = draw(*arguments)
        drawn.append(images)
        return images, latents

    def late(*arguments: Any) -> Any:
        assert second.wait(60), "the next batch waits for the files of the last one"
        return written(*arguments)

    patch.setattr(module, "sample_images", noted)
    patch.setattr(module, write, late)
    return drawn


def test_files_of_opponents_are_made_while_the_next_batch_is_drawn(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spin.sampling.opponents

    drawn = held_up(monkeypatch, spin.sampling.opponents, "_png")
    run_opponents(parameters(tiny_base, opponents={"batch_size": 4, "shard_size": 12}), "iter1")
    (shard,) = Path("outputs/opponents/iter1").glob("shard-*/images.parquet")
    files = [Image.open(io.BytesIO(png)) for png in pd.read_parquet(shard)["png"]]
    assert len(files) == 12
    assert np.array_equal(np.stack(files), torch.cat(drawn).numpy()), "each row has its own image"


def test_samples_are_written_while_the_next_batch_is_drawn(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spin.sampling.samples

    params = parameters(tiny_base, evaluate={"batch_size": 2})
    run_prompt_set(params, "test")
    drawn = held_up(monkeypatch, spin.sampling.samples, "_write_batch")
    run_generate(params, "test", "base")
    folder = Path("outputs/samples/test/base")
    files = [Image.open(folder / image) for image in pd.read_parquet(folder / "manifest.parquet")["image"]]
    assert np.array_equal(np.stack(files), torch.cat(drawn).numpy()), "each row has its own image"
