"""Loading a reward model: the right weights strictly, whole and without running code, or one sentence."""

import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from spin.errors import ScoreError
from spin.rewards.heads import head_for
from spin.rewards.loading import load_scorer
from tests.rewards.scenes import PROMPTS, Constant


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("pikscore", None, "no scorer named pikscore; did you mean pickscore"),
        ("zzz", None, "known are pickscore"),
        ("clip", "/no/such/folder", "must be `embedded`, `hub` or a folder, got /no/such/folder"),
        ("hps_v21", "embedded", "there is no embedded hps_v21"),
        ("aesthetic_v1", "hub", "no weights on the hub"),
        ("oracle_psnr", "hub", "must have the source toy, got hub"),
    ],
)
def test_a_wrong_name_or_source_is_refused_with_the_remedy(
    name: str, source: str | None, message: str
) -> None:
    with pytest.raises(ScoreError, match=message):
        load_scorer(name, source)


def test_weights_offline_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(
        ScoreError, match=r"could not be had \(OSError: no route to host\); connect, or give a folder"
    ):
        load_scorer("hps")


def test_weights_that_lack_a_key_or_have_one_too_many_are_refused(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny / "image_reward", tmp_path / "ir")
    state = load_file(tmp_path / "ir" / "model.safetensors")
    path = tmp_path / "ir" / "model.safetensors"
    save_file({key: value for key, value in state.items() if key != "mlp.layers.7.bias"}, path)
    with pytest.raises(ScoreError, match=r"lacks weights mlp\.layers\.7\.bias \(1 in all\)"):
        load_scorer("image_reward", str(tmp_path / "ir"))
    save_file({**state, "surplus": torch.zeros(1)}, path)
    with pytest.raises(ScoreError, match="has the unknown weights surplus"):
        load_scorer("image_reward", str(tmp_path / "ir"))
    path.write_bytes(b"torn")
    with pytest.raises(ScoreError, match="must hold readable weights"):
        load_scorer("image_reward", str(tmp_path / "ir"))


def test_weights_are_moved_and_not_copied_so_that_loading_holds_them_once(tiny: Path) -> None:
    from spin.rewards.weights import load_strictly, read_state, without_weights

    path = tiny / "aesthetic" / "head.safetensors"
    state = read_state(path)
    expected = {key: value.clone() for key, value in state.items()}
    with without_weights():
        head = head_for(state)
    assert all(parameter.is_meta for parameter in head.parameters()), "no memory before there are weights"
    load_strictly(head, state, path)
    assert not state
    assert all(torch.equal(value, expected[key]) for key, value in head.state_dict().items())


def test_pickled_code_in_a_checkpoint_is_never_run(tiny: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    shutil.copytree(tiny / "hps", tmp_path / "hps")
    (tmp_path / "hps" / "model.safetensors").unlink()
    torch.save({"state_dict": Payload()}, tmp_path / "hps" / "HPS_v2_compressed.pt")
    with pytest.raises(ScoreError, match="must hold readable weights"):
        load_scorer("hps", str(tmp_path / "hps"))
    assert not (tmp_path / "pwned").exists()


def test_published_checkpoint_formats_load_through_the_same_code(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shutil.copytree(tiny / "hps", tmp_path / "hps")
    state = load_file(tmp_path / "hps" / "model.safetensors")
    (tmp_path / "hps" / "model.safetensors").unlink()
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "hps" / "HPS_v2.1_compressed.pt")
    image = [Image.new("RGB", (32, 32), (200, 10, 10))]
    published, embedded = load_scorer("hps_v21", str(tmp_path / "hps")), load_scorer("hps", str(tiny / "hps"))
    assert torch.equal(published.score(image, PROMPTS[:1]), embedded.score(image, PROMPTS[:1]))


def test_a_users_own_scorer_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "constant", "their.module:make"

        def load(self) -> Any:
            return lambda source, device, dtype: Constant()

    def points(group: str) -> list[Any]:
        return [Point()] if group == "spin.scorers" else []

    assert EntryPoint  # the real ones have the same three members
    monkeypatch.setattr("spin.rewards.loading.entry_points", points)
    assert load_scorer("constant").name == "constant"
    monkeypatch.setattr(Point, "load", lambda self: lambda *_: 3)
    with pytest.raises(ScoreError, match="must return a scorer"):
        load_scorer("constant")
