"""What the hub must give is looked for before any work, in its cache first, and `spin fetch` says and verifies what is there."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spin import paths
from spin.cli import main
from spin.errors import SpinError
from spin.params.schema import Params, load_params
from spin.rewards.names import HUB
from spin.runtime.files import sha256_tree
from spin.stages.data import run_prompt_set
from spin.stages.needs import check_reachable, needs_of
from tests.data.sources import captioned
from tests.hub import offline_cache, put, put_folder
from tests.models.tiny import miniature_params, write_params

BASE, UNET, SCORER = "owner/base", "owner/unet", "hps"
EVERY = {"base", "released", "generate", "score", "prompt_set"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's; the test is in a project folder, offline, and a connection fails it."""
    monkeypatch.setenv("SPIN_TRACKING", "off")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return offline_cache(tmp_path / "cache", monkeypatch)


def parameters(**changes: dict[str, Any]) -> Params:
    """Parameters that need a base, a released denoiser and a scorer of the hub, written to the project."""
    raw = miniature_params(Path(BASE))
    raw["released"] = {"theirs": {"source": UNET, "revision": None}}
    raw["evaluate"]["models"].append("theirs")
    raw["scorers"][SCORER] = {"source": "hub"}
    for section, values in changes.items():
        raw[section] |= values
    write_params(Path(), raw)
    return load_params()


def fill(cache: Path, tiny_base: Path) -> None:
    """Put all that `parameters` needs into the cache."""
    put_folder(cache, BASE, tiny_base)
    put_folder(cache, UNET, tiny_base / "unet")
    for repository, file in HUB[SCORER].values():
        put(cache, repository, {file: b"weights"})


def test_what_is_in_the_cache_needs_no_network(cache: Path, tiny_base: Path) -> None:
    params = parameters()
    fill(cache, tiny_base)
    assert {need.key for need in needs_of(params)} == {
        "base.source",
        "released.theirs.source",
        "scorers.hps.source",
    }
    check_reachable(params, EVERY)
    assert main(["base"]) == 0


@pytest.mark.parametrize(
    ("repository", "file", "stages", "key"),
    [
        (BASE, "model_index.json", {"train"}, "base.source"),
        (BASE, "unet/diffusion_pytorch_model.safetensors", {"base"}, "base.source"),
        (BASE, "vae/config.json", {"cache"}, None),
        (UNET, "config.json", {"released"}, "released.theirs.source"),
        (UNET, "diffusion_pytorch_model.safetensors", {"generate"}, "released.theirs.source"),
        (HUB[SCORER]["HPS_v2_compressed.pt"][0], "HPS_v2_compressed.pt", {"score"}, "scorers.hps.source"),
    ],
)
def test_what_is_missing_is_told_to_the_stages_that_read_it_and_to_no_other(
    cache: Path, tiny_base: Path, repository: str, file: str, stages: set[str], key: str | None
) -> None:
    params = parameters()
    fill(cache, tiny_base)
    (link,) = cache.glob(f"models--{repository.replace('/', '--')}/snapshots/*/{file}")
    link.unlink()
    check_reachable(params, {"tables", "report"})
    if key is None:
        return
    with pytest.raises(
        SpinError, match=rf"{key} must be a folder or a repository that the hub has, but {repository} is"
    ) as said:
        check_reachable(params, stages)
    assert "\n" not in str(said.value)
    assert "`spin fetch`" in str(said.value)


def test_no_image_is_drawn_that_nobody_can_judge(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    parameters()
    fill(cache, tiny_base)
    (link,) = cache.glob("*/snapshots/*/HPS_v2_compressed.pt")
    link.unlink()
    assert main(["base"]) == 0, "others than the scorers' images may be drawn"
    assert "warning, for later stages: scorers.hps.source must be a folder or a repo" in caplog.text
    assert main(["generate", "--name", "base"]) == 2
    assert (
        "spin: scorers.hps.source must be a folder or a repository that the hub has"
        in capsys.readouterr().err
    )
    assert not Path("outputs/samples").exists()


def test_fetch_says_what_is_here_and_verifies_its_bytes(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters()
    fill(cache, tiny_base)
    assert main(["fetch", "--list"]) == 0
    assert "base.source: owner/base: here, " in capsys.readouterr().out
    assert main(["fetch"]) == 0
    said = capsys.readouterr().out
    assert "released.theirs.source: owner/unet: here and whole, " in said
    assert "all of it is here and whole" in said

    # A file whose bytes are not those that the hub named.
    (link,) = cache.glob("models--owner--base/snapshots/*/unet/*.safetensors")
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert main(["fetch"]) == 2
    error = capsys.readouterr().err
    assert f"base.source: {blob} must hold the bytes that the hub has, but it does not; remove it" in error
    assert error.count("\n") == 1


def test_fetch_brings_what_it_can_and_ends_with_what_it_cannot(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters()
    put_folder(cache, BASE, tiny_base)
    for arguments in (["fetch"], ["fetch", "--list"]):
        assert main(arguments) == 2
        told = capsys.readouterr()
        assert "base.source: owner/base: here" in told.out
        assert "scorers.hps.source: xswu/HPSv2: not to be had" in told.out
        assert told.err.count("\n") == 1
        assert "owner/unet" in told.err
        assert "(2 of 3 are not to be had)" in told.err


def test_parameters_of_local_files_need_nothing(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(Path(), miniature_params(tiny_base))
    assert main(["fetch"]) == 0
    assert "params.yaml needs nothing of the hub." in capsys.readouterr().out


def test_a_prompt_set_that_was_fetched_is_read_from_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    from spin.prompts import named

    raw = miniature_params(tiny_base)
    raw["prompt_sets"]["parti"] = {"prompts": "parti_prompts", "source": None, "images_per_prompt": None}
    raw["evaluate"]["references"] = []
    write_params(Path(), raw)
    published = named.NamedSet(
        {"Arts": 2}, lambda: [("a cat", "Arts", "", "Basic"), ("a dog", "Arts", "", "Basic")]
    )
    monkeypatch.setitem(named.NAMED, "parti_prompts", published)
    raw["scorers"] = {name: each for name, each in raw["scorers"].items() if not name.startswith("oracle")}
    write_params(Path(), raw)
    assert main(["fetch"]) == 0
    run_prompt_set(load_params(), "parti")
    before = pd.read_parquet(paths.prompts_of("parti"))
    gone = named.NamedSet({"Arts": 2}, lambda: pytest.fail("asked the hub"))
    monkeypatch.setitem(named.NAMED, "parti_prompts", gone)
    run_prompt_set(load_params(), "parti")
    pd.testing.assert_frame_equal(pd.read_parquet(paths.prompts_of("parti")), before)
    assert list(before["prompt"]) == ["a cat", "a dog"]


def test_the_commit_that_fetch_saw_stands_for_the_newest_where_the_hub_is_away(cache: Path) -> None:
    from spin.data.streams import resolve
    from tests.hub import COMMIT

    with pytest.raises(SpinError, match="owner/images cannot be reached"):
        resolve("owner/images", None)
    put(cache, "owner/images", {"README.md": b"images"}, kind="dataset")
    assert resolve("owner/images", None) == COMMIT
    assert resolve("owner/others", COMMIT) == COMMIT, "a commit is its own name"


class Rows(list[dict[str, Any]]):
    """What `datasets.load_dataset` streams, of a repository that does not say what its columns are."""

    features = None


def test_a_data_set_that_was_fetched_is_there_when_dvc_asks_for_it_without_a_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    raw = miniature_params(tiny_base)
    columns = {"image_column": "image", "text_column": "text", "config": None}
    shared = {"revision": None, "split": "train", "max_rows": None, "small_images": "drop"}
    held_out = {"aspect_buckets": None, "num_val": 2, "num_test": 2}
    raw["data"] = {"kind": "dataset", "source": "owner/images", **columns, **shared, **held_out}
    raw["evaluate"] |= {"references": [], "models": ["base", "sft", "iter1", "iter2"]}
    raw["tables"]["over"] = ["base"]
    del raw["baselines"]["dpo"]
    raw["scorers"] = {name: each for name, each in raw["scorers"].items() if not name.startswith("oracle")}
    write_params(Path(), raw)
    Path("dvc.yaml").touch()

    # With a network: the client of the test has one that gives rows, and the name of the newest commit.
    put(cache, "owner/images", {"README.md": b"images"}, kind="dataset")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Rows(captioned(20)))
    assert main(["fetch", "--without-data"]) == 0
    assert not paths.DATA.exists()
    assert main(["fetch"]) == 0
    assert "data.source: owner/images: fetched and whole" in capsys.readouterr().out

    # Without one: DVC removes what it did not make and runs the stage.
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    before = sha256_tree(paths.DATA)
    shutil.rmtree(paths.DATA)
    assert main(["fetch"]) == 0
    assert main(["data"]) == 0
    assert sha256_tree(paths.DATA) == before
    assert main(["fetch", "--params", "profiles/none.yaml"]) == 2
