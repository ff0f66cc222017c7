"""Properties of the cache of latents and text embeddings: what is kept, what is noticed, what is refused."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import spin.data.cache
from spin.data.cache import Cache, write_cache
from spin.data.manifest import read_manifest
from spin.errors import DamagedError, DataError
from spin.models.checkpoint import load_model
from spin.models.latent_diffusion import LatentDiffusion
from spin.runtime.files import read_json, sha256_file, sha256_tree
from spin.runtime.sums import write_sums
from spin.runtime.tensors import ShardedTensors, save_shard
from spin.stages.data import run_cache
from spin.training.examples import sft_training_set
from tests.data.tables import column
from tests.stages.projects import parameters, prepare

SHARDS = 5
"""Of the 12 images of the miniature's manifest and the 12 losers of its pairs, in shards of 5."""


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.data.cache, "SHARD_SIZE", 5)
        return prepare(tmp_path_factory.mktemp("cache"), tiny_base, iterations=())


@pytest.fixture
def inside(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, with small shards."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(spin.data.cache, "SHARD_SIZE", 5)
    return tmp_path / "project"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that went through the VAE since the test began."""
    counts: list[int] = []
    original = LatentDiffusion.encode_images

    def counting(self: LatentDiffusion, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(LatentDiffusion, "encode_images", counting)
    return counts


def shards() -> list[Path]:
    return sorted(Path("outputs/cache/latents").glob("shard-*/posteriors.safetensors"))


def cut_short(path: Path) -> None:
    """Replace a file by its first half, as a full disk leaves it; other names of the file keep the whole."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)


def overwrite(image: str) -> str:
    """Another picture of as many bytes in the place of an image; its SHA-256."""
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 77, dtype=np.uint8)).save(stream, format="PNG")
    name, start, size = image.split(":")
    content = stream.getvalue().ljust(int(size), b"\0")
    shard = Path("outputs/data", name)
    with shard.open("r+b") as file:
        file.seek(int(start))
        file.write(content)
    write_sums(shard.parent)
    write_sums(Path("outputs/data"))
    return hashlib.sha256(content).hexdigest()


def replace_image(image: str) -> None:
    """Another picture, with the manifest in step, as the data stage would leave them."""
    manifest = pd.read_parquet("outputs/data/manifest.parquet")
    manifest.loc[manifest["image"] == image, "sha256"] = overwrite(image)
    manifest.to_parquet("outputs/data/manifest.parquet", index=False)
    write_sums(Path("outputs/data"))


def test_making_it_again_encodes_nothing_and_gives_the_same_bytes(
    inside: Path, tiny_base: Path, encoded: list[int]
) -> None:
    before = sha256_tree(Path("outputs/cache"))
    assert len(shards()) == SHARDS
    run_cache(parameters(tiny_base))
    assert encoded == []
    assert sha256_tree(Path("outputs/cache")) == before


def test_a_shard_cut_short_in_the_store_is_made_again(
    inside: Path, tiny_base: Path, encoded: list[int]
) -> None:
    before = sha256_tree(Path("outputs/cache"))
    cut_short(sorted(Path(".spin/cache/latents").glob("*/posteriors.safetensors"))[0])
    run_cache(parameters(tiny_base))
    assert sum(encoded) in (4, 5), "that shard and no other"
    assert sha256_tree(Path("outputs/cache")) == before


def test_a_flipped_bit_is_mended_in_the_cache_and_in_the_store_which_have_one_file(
    inside: Path, tiny_base: Path, encoded: list[int]
) -> None:
    for copied in Path("outputs/cache").rglob("*.safetensors"):  # a copied project has lost its links
        copied.unlink()
    run_cache(parameters(tiny_base))
    encoded.clear()
    before, store = sha256_tree(Path("outputs/cache")), sha256_tree(Path(".spin/cache"))
    content = bytearray(shards()[2].read_bytes())
    content[len(content) // 2] ^= 1
    with shards()[2].open("r+b") as stream:  # in place
        stream.write(content)
    assert sha256_tree(Path(".spin/cache")) != store
    with pytest.raises(
        DamagedError, match=rf"^{shards()[2]} must hold .*; `python -m spin cache` makes it again"
    ):
        Cache(Path("outputs/cache")).posteriors(pd.read_parquet("outputs/cache/images.parquet")["image"])
    run_cache(parameters(tiny_base))
    assert sum(encoded) in (4, 5), "that shard and no other"
    assert (sha256_tree(Path("outputs/cache")), sha256_tree(Path(".spin/cache"))) == (before, store)


def test_a_changed_image_costs_its_shard_and_is_encoded_anew(
    inside: Path, tiny_base: Path, encoded: list[int]
) -> None:
    image = column(read_manifest(Path("outputs/data")), "image")[7]
    before, digests = (
        Cache(Path("outputs/cache")).posteriors([image])[0],
        [sha256_file(path) for path in shards()],
    )
    replace_image(image)
    run_cache(parameters(tiny_base))
    assert sum(encoded) == 5
    assert not torch.equal(Cache(Path("outputs/cache")).posteriors([image])[0], before)
    same = [sha256_file(path) == digest for path, digest in zip(shards(), digests, strict=True)]
    assert same == [True, False, True, True, True]
    stored = {path.stem for path in Path(".spin/cache/latents").iterdir()}
    assert stored == set(read_json(Path("outputs/cache/cache.json"))["latents"]), "the stale one is gone"


def test_an_image_that_is_not_the_manifests_is_refused(inside: Path, tiny_base: Path) -> None:
    overwrite(column(read_manifest(Path("outputs/data")), "image")[3])
    before = sha256_tree(Path("outputs/cache"))
    with pytest.raises(
        DataError, match="must be the image that the manifest lists, but its bytes have changed"
    ):
        run_cache(parameters(tiny_base))
    assert sha256_tree(Path("outputs/cache")) == before, "nothing half-written"


def test_training_on_a_stale_cache_is_refused(inside: Path, tiny_base: Path) -> None:
    replace_image(column(read_manifest(Path("outputs/data")), "image")[7])
    with pytest.raises(DataError, match=r"was another image when it was made; run `spin cache` again"):
        sft_training_set(Path("outputs/data"), Cache(Path("outputs/cache")))


def test_a_torn_shard_is_refused_by_readers(inside: Path) -> None:
    cut_short(shards()[1])
    with pytest.raises(
        DamagedError, match=rf"{shards()[1]} must hold .*; `python -m spin cache` makes it again\."
    ):
        Cache(Path("outputs/cache"))
    for listing in Path("outputs/cache").rglob("spin.sha256"):
        listing.unlink()
    with pytest.raises(
        DataError, match=rf"{shards()[1]} must be a whole shard.*; `python -m spin cache` makes it again\."
    ):
        Cache(Path("outputs/cache"))


@pytest.mark.parametrize("missing", [True, False])
def test_a_shard_of_another_cache_is_refused_by_readers(inside: Path, missing: bool) -> None:
    shutil.rmtree(shards()[4].parent)
    if not missing:
        shutil.copytree(shards()[0].parent, "outputs/cache/latents/shard-00004")
    write_sums(Path("outputs/cache"))
    with pytest.raises(DataError, match=r"must hold the 5 shards that its cache\.json lists"):
        Cache(Path("outputs/cache"))


def test_another_encoder_makes_every_shard_stale(inside: Path, tiny_base: Path, encoded: list[int]) -> None:
    base = Path("outputs/checkpoints/base/model.json")
    reference = json.loads(base.read_text())
    reference["weights"]["vae"] = "another"
    with pytest.raises(DataError, match="must be made by the vae of the base in use"):
        Cache(Path("outputs/cache")).check_encoders(reference)
    Cache(Path("outputs/cache")).check_encoders({"base": json.loads(base.read_text())})
    first = spin.data.cache.encoder_digests(reference)
    assert "unet" not in first, "the denoiser encodes nothing"


def test_what_encodes_is_in_the_keys_of_the_shards(inside: Path, tmp_path: Path) -> None:
    """A single file is one part, with the VAE inside; an SDXL base's model_index.json says whether its empty prompt is zeros."""
    model = load_model(Path("outputs/checkpoints/base"))

    def keys(part: str, configs: str, **weights: str) -> set[str]:
        reference = {"weights": weights, "configs_sha256": configs}
        write_cache(Path("outputs/data"), tmp_path / "out", tmp_path / "store", model, reference, 8)
        return set(read_json(tmp_path / "out" / "cache.json")[part])

    assert not keys("latents", "c", file="one") & keys("latents", "c", file="another")
    parts = {"vae": "v", "text_encoder": "t"}
    assert not keys("captions", "c", **parts) & keys("captions", "other", **parts)
    assert keys("latents", "c", **parts) == keys("latents", "other", **parts)


def test_a_name_that_is_not_there_is_refused(inside: Path) -> None:
    cache = Cache(Path("outputs/cache"))
    with pytest.raises(DataError, match="the cache must hold 'a caption of nobody'"):
        cache.text(["a caption of nobody"])
    with pytest.raises(DataError, match="it was made of another data set"):
        cache.posteriors(["images/zzz.png"])


def test_rows_are_found_across_shards(tmp_path: Path) -> None:
    values, start = torch.arange(17.0).reshape(17, 1), 0
    for index, size in enumerate((1, 6, 3, 7)):
        (tmp_path / f"shard-{index:05d}").mkdir()
        save_shard(
            tmp_path / f"shard-{index:05d}/x.safetensors", {"v": values[start : start + size]}, str(index)
        )
        start += size
    tensors = ShardedTensors(tmp_path, "x", ["0", "1", "2", "3"])
    assert len(tensors) == 17
    order = [16, 0, 1, 6, 7, 9, 10, 3]
    assert tensors.rows("v", order).flatten().tolist() == order
    for outside in (-1, 17):
        with pytest.raises(IndexError):
            tensors.rows("v", [outside])
