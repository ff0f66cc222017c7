"""An export says what it is and where, and takes no place that holds anything else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spin import cli
from spin.errors import ModelError
from spin.models.checkpoint import load_model
from spin.runtime.files import read_json, sha256_tree, write_json
from spin.runtime.provenance import content_md5
from spin.tools.export.formats import FILE_FORMATS, FORMATS, export_checkpoint
from tests.models.adapters import predict


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_card_tells_base_lineage_and_how_to_load(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = format_name in FILE_FORMATS
    place = tmp_path / ("model.safetensors" if single else "model")
    made = {
        "outs": [{"md5": content_md5(checkpoints / "iter2"), "path": "iter2"}],
        "params": {"params.yaml": {"beta": 2000.0}},
    }
    other = {"outs": [{"md5": "0", "path": "iter1"}], "params": {"params.yaml": {"beta": 1.0}}}
    write_json(tmp_path / "dvc.lock", {"stages": {"train@iter1": other, "train@iter2": made}})
    export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=False, root=tmp_path)
    text = (tmp_path / "model.md" if single else place / "README.md").read_text()
    assert str(tiny_base) in text
    digests = {
        name: read_json(checkpoints / name / "model.json")["denoiser_sha256"] for name in ("iter1", "iter2")
    }
    assert f"base -> iter1 ({digests['iter1'][:12]}) -> iter2 ({digests['iter2'][:12]})" in text
    assert '"beta": 2000.0' in text
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    with torch.no_grad():
        torch.testing.assert_close(
            predict(loaded["pipeline"].unet),
            predict(load_model(checkpoints / "iter2").denoiser),
            rtol=1e-3,
            atol=1e-4,
        )


def test_an_export_is_replaced_only_when_forced_and_nothing_else_ever(
    checkpoints: Path, tmp_path: Path
) -> None:
    for format_name, name in (("unet", "model"), ("single-file", "model.safetensors")):
        place = tmp_path / name
        export_checkpoint(checkpoints / "iter1", format_name, place, "fp32", force=False)
        before = sha256_tree(tmp_path)
        with pytest.raises(ModelError, match="name another place or give --force"):
            export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=False)
        assert sha256_tree(tmp_path) == before
        export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=True)
        assert sha256_tree(tmp_path) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "mine.safetensors").write_bytes(b"weights of another tool")
    for format_name, name in (("pipeline", "mine"), ("single-file", "mine.safetensors")):
        with pytest.raises(ModelError, match="is neither; name another place"):
            export_checkpoint(checkpoints / "iter1", format_name, tmp_path / name, "fp32", force=True)
    (tmp_path / "notes.md").write_text("mine too")
    with pytest.raises(ModelError, match=r"must leave .*notes\.md for the model card"):
        export_checkpoint(
            checkpoints / "iter1", "single-file", tmp_path / "notes.safetensors", "fp32", force=True
        )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert not list(tmp_path.glob(".*")), "nothing half-written"


def test_a_place_is_what_it_is_once_its_parents_are_there(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    monkeypatch.chdir(mine)
    for place in (tmp_path / "new" / ".." / "mine", Path(), Path("/")):
        with pytest.raises(ModelError, match="is neither; name another place"):
            export_checkpoint(checkpoints / "iter1", "lora", place, "fp32", force=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "thesis.txt"]
    where = export_checkpoint(checkpoints / "iter1", "lora", Path("new/../out"), "fp32", force=False)
    assert where == mine / "out"
    assert (where / "export.json").is_file()


def test_what_cannot_be_exported_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--format lora needs a checkpoint trained with training\.lora"):
        export_checkpoint(checkpoints / "whole", "lora", tmp_path / "out", "fp32", force=False)
    with pytest.raises(ModelError, match=r"must end in \.safetensors"):
        export_checkpoint(checkpoints / "whole", "single-file", tmp_path / "out", "fp32", force=False)
    with pytest.raises(ModelError, match="must be a folder"):
        export_checkpoint(checkpoints / "whole", "unet", tmp_path / "out.safetensors", "fp32", force=False)
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_the_export_is_and_bad_input_ends_with_exit_code_2(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path) -> int:
        checkpoint = str(checkpoints / "iter1")
        return cli.main(["export", "--checkpoint", checkpoint, "--format", "lora", "--out", str(out)])

    assert run(tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} holds ")
    assert run(tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
