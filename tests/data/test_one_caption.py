"""Images of one subject under one caption: nothing is held out, and what was trained on is drawn."""

from pathlib import Path

import pytest

from spin.cli import main
from spin.data.manifest import read_manifest, read_prompts
from spin.params.schema import load_params
from spin.stages.data import run_data
from tests.data.images import jpeg, write_numbered
from tests.data.tables import column
from tests.data.test_folder import bring

DATA = Path("outputs/data")


def test_many_images_of_one_caption_are_trained_on_and_evaluated_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").symlink_to(Path(__file__).resolve().parents[2] / "profiles")
    (tmp_path / "photos" / "10_sks dog").mkdir(parents=True)
    for index in range(20):
        (tmp_path / "photos" / "10_sks dog" / f"{index}.jpg").write_bytes(jpeg(index))
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 0
    assert "evaluation draws what was trained on" in capsys.readouterr().out
    params = load_params()
    assert (params.data.kind, params.data.num_val, params.data.num_test) == ("folder", 0, 0)
    run_data(params)
    assert len(read_manifest(DATA)) == 20
    for split in ("val", "test"):
        assert list(read_prompts(DATA, split)["prompt"]) == ["sks dog"]


def test_without_held_out_captions_the_first_training_captions_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spin.data.captions.MOST_IN_TRAINING", {"val": 2, "test": 3})
    folder = write_numbered(tmp_path / "images")
    held, trained = {}, {}
    for num_val, num_test in ((0, 0), (2, 0), (0, 2)):
        out = tmp_path / f"out-{num_val}-{num_test}"
        bring(folder, out, num_val, num_test)
        trained = set(column(read_manifest(out), "caption"))
        held = {split: list(read_prompts(out, split)["prompt"]) for split in ("val", "test")}
        assert len(trained) == 9 - num_val - num_test
        for split, number, most in (("val", num_val, 2), ("test", num_test, 3)):
            assert len(held[split]) == (number or most)
            assert set(held[split]) <= trained if not number else not set(held[split]) & trained
