"""Weights that are there in half precision alone, in the hub's layout, are read; what cannot be read is refused at once."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spin.errors import ModelError
from spin.models.checkpoint import load_denoiser, load_model, reference_of
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.variants import variant_of
from spin.runtime.files import read_json
from tests.models.bases import WEIGHTS, base_params, halved, record_base
from tests.stages.projects import prepare

HALF = "diffusion_pytorch_model.fp16.safetensors"


def assert_holds(model: LatentDiffusion, base: Path, dtype: torch.dtype, *parts: str) -> None:
    """The model has, in fp32, what `dtype` keeps of the weights of the plain folder `base`, or of some parts."""
    for path in base.glob("*/*.safetensors"):
        if parts and path.parent.name not in parts:
            continue
        denoiser = path.parent.name == model.denoiser_folder
        network = model.denoiser if denoiser else getattr(model, path.parent.name)
        own = {name.removeprefix("text_model."): tensor for name, tensor in network.state_dict().items()}
        for name, tensor in load_file(path).items():
            assert torch.equal(own[name.removeprefix("text_model.")], tensor.to(dtype).float()), name


@pytest.mark.parametrize("max_shard_size", ["10GB", "4KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_a_folder_of_a_variant_alone_is_the_model_in_all_its_networks(
    others: Path, tmp_path: Path, name: str, max_shard_size: str
) -> None:
    folder = halved(others / name, tmp_path / "half", max_shard_size=max_shard_size)
    if max_shard_size == "4KB":
        for stem in ("vae/diffusion_pytorch_model", "text_encoder/model"):
            assert list(folder.glob(f"{stem}.fp16-00001-of-*.safetensors"))
    checkpoint = record_base(tmp_path / "base", base_params(folder))
    assert_holds(load_model(checkpoint), others / name, torch.float16)
    assert (
        load_denoiser(checkpoint).state_dict().keys() == load_model(checkpoint).denoiser.state_dict().keys()
    )


def test_it_is_said_once_and_full_weights_come_first(
    tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="spin")
    folder = halved(tiny_base, tmp_path / "half")
    load_model(record_base(tmp_path / "base", base_params(folder)))
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{folder} has unet, vae, text_encoder in fp16 alone" in said
    shutil.copytree(tiny_base, folder, dirs_exist_ok=True)
    caplog.clear()
    assert_holds(load_model(record_base(tmp_path / "full", base_params(folder))), tiny_base, torch.float32)
    assert not caplog.records


@pytest.mark.parametrize(
    ("variants", "chosen"), [({"bf16", "fp16", "non_ema"}, "fp16"), ({"non_ema", "bf16"}, "bf16")]
)
def test_of_several_variants_fp16_is_read_else_the_first(
    tmp_path: Path, variants: set[str], chosen: str
) -> None:
    for name in variants:
        (tmp_path / f"diffusion_pytorch_model.{name}.safetensors").touch()
    assert variant_of(tmp_path, "unet", "here") == chosen


def test_its_latents_are_cached_and_its_opponents_drawn(tiny_base: Path, tmp_path: Path) -> None:
    made = []
    for variant in ("fp16", None):
        base = halved(tiny_base, tmp_path / f"base-{variant}", variant)
        (tmp_path / f"project-{variant}").mkdir()
        project = prepare(tmp_path / f"project-{variant}", base)
        files = sorted(project.glob("outputs/*/**/shard-*/*.safetensors"))
        assert {"posteriors", "text", "latents"} <= {file.stem for file in files}
        made.append({file.name: load_file(file) for file in files})
    for name, tensors in made[0].items():
        assert all(torch.equal(tensors[key], made[1][name][key]) for key in tensors)


def test_a_denoiser_in_a_variant_is_laid_over_the_base(tiny_base: Path, others: Path, tmp_path: Path) -> None:
    laid = halved(others / "sd", tmp_path / "half") / "unet"
    checkpoint = record_base(tmp_path / "base", base_params(tiny_base, unet=laid))
    assert_holds(load_model(checkpoint), others / "sd", torch.float16, "unet")


def rename(old: str, new: str) -> Any:
    return lambda folder: (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            rename(f"unet/{WEIGHTS}", "unet/mine.safetensors"),
            r"unet weights as .*, found mine\.safetensors; save",
        ),
        (
            rename("text_encoder/model.safetensors", f"text_encoder/{WEIGHTS}"),
            r"text_encoder weights as model\.",
        ),
        (
            rename(f"vae/{WEIGHTS}", "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"),
            r"vae weights as",
        ),
        (rename(f"unet/{WEIGHTS}", "unet/weights.bin"), r"unet weights as safetensors, found none; convert"),
    ],
)
def test_weights_that_nothing_would_find_are_refused_when_the_base_is(
    base: Path, damage: Any, found: str
) -> None:
    damage(base)
    with pytest.raises(ModelError, match=rf"must hold {found}") as refusal:
        reference_of(base_params(base))
    assert "\n" not in str(refusal.value)


def test_a_sharded_variant_without_one_of_its_shards_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = halved(tiny_base, tmp_path / "half", max_shard_size="4KB")
    index = read_json(folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json")
    (folder / "unet" / min(index["weight_map"].values())).unlink()
    with pytest.raises(ModelError, match=r"must hold unet weights as .* in all shards of an index, found"):
        reference_of(base_params(folder))


def test_the_hub_is_asked_for_a_variant_only_where_it_has_no_other_weights(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, cache = halved(tiny_base, tmp_path / "repository"), tmp_path / "cache" / "abc"
    shutil.copy(tiny_base / "vae" / WEIGHTS, repository / "vae")

    def download(source: str, revision: Any, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        from huggingface_hub.utils import filter_repo_objects

        paths = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        wanted = filter_repo_objects(paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for path in wanted:
            (cache / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / path, cache / path)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    reference = reference_of(base_params("owner/name"))
    assert reference["revision"] == "abc"
    assert (cache / "unet" / HALF).is_file()
    assert (cache / "text_encoder" / "model.fp16.safetensors").is_file()
    assert not (cache / "vae" / HALF).exists(), "its full weights are there"
    unet = {"source": "owner/name", "revision": None}
    shutil.rmtree(cache)
    assert reference_of(base_params(tiny_base, unet=unet))["unet"]["revision"] == "abc"
    assert (cache / "unet" / HALF).is_file()
