"""`spin score --images`: any folder of images with prompts, without params.yaml and the rest of the project."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from spin.cli import main
from spin.rewards.loading import load_scorer
from spin.runtime.files import read_json
from spin.toy.world import render, split_scenes, to_uint8

SCENES = split_scenes()["test"][:5]
PROMPTS = [scene.caption for scene in SCENES]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images with prompts, in an otherwise empty folder that we stand in."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, scene in enumerate(SCENES):
        Image.fromarray(to_uint8(render(scene))).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(scene.caption)
    monkeypatch.chdir(tmp_path)
    return folder


def score(*arguments: str) -> int:
    return main(["score", "--images", "pictures", "--out", "scores.parquet", "--device", "cpu", *arguments])


def test_a_plain_folder_gets_a_table_a_summary_and_means_on_the_terminal(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("--scorers", "pickscore,clip", "--source", "embedded", "--batch-size", "2") == 0
    frame, summary = pd.read_parquet("scores.parquet"), read_json(Path("scores.json"))
    alone = load_scorer("clip", "embedded")
    images = [Image.open(pictures / name) for name in frame["image"]]
    assert frame["clip"].to_numpy() == pytest.approx(alone.score(images, PROMPTS).double().numpy(), abs=1e-5)
    assert summary["scorers"]["clip"]["sha256"] == alone.sha256
    assert summary["std"]["clip"] == pytest.approx(frame["clip"].std())
    assert summary["measured"]["dtype"] == "fp32"
    assert set(summary["measured"]["versions"]) >= {"torch", "transformers", "open_clip_torch", "spin"}
    text = capsys.readouterr().out
    assert alone.sha256[:12] in text
    assert alone.version in text
    assert "a row for each of 5 images" in text
    assert sorted(path.name for path in Path().iterdir()) == ["pictures", "scores.json", "scores.parquet"]


def test_a_scorer_that_reads_no_prompts_needs_none(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("--scorers", "aesthetic", "--source", "embedded") == 0
    with_prompts = pd.read_parquet("scores.parquet")
    for text in pictures.glob("[1-4].txt"):
        text.unlink()
    command = ["score", "--images", "pictures", "--source", "embedded", "--device", "cpu", "--scorers"]
    assert main([*command, "aesthetic"]) == 0
    without = pd.read_parquet("scores.parquet")  # where it goes by default
    assert without["aesthetic"].tolist() == with_prompts["aesthetic"].tolist()
    assert without["prompt"].tolist() == [PROMPTS[0], "", "", "", ""]
    (pictures / "metadata.csv").write_text("file_name\n0.png\n")
    assert main([*command, "aesthetic"]) == 0
    assert main([*command, "aesthetic,clip"]) == 2
    assert "must have the columns image and prompt" in capsys.readouterr().err


def test_embedded_scorers_that_judge_photographs_say_so(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert score("--scorers", "aesthetic", "--source", "embedded") == 0
    assert "embedded" not in caplog.text, "images of the embedded world"
    for path in pictures.glob("*.png"):
        Image.open(path).resize((64, 48)).save(path)
    assert score("--scorers", "aesthetic", "--source", "embedded") == 0
    assert "the embedded aesthetic learned from 32x32 scenes of coloured shapes alone" in caplog.text


def test_each_scorer_can_come_from_a_source_of_its_own(pictures: Path) -> None:
    from spin.rewards.weights import EMBEDDED

    assert (
        score("--scorers", "aesthetic,oracle_psnr", "--source", "embedded", "--source", "oracle_psnr=toy")
        == 0
    )
    by_name = pd.read_parquet("scores.parquet")["aesthetic"]
    own = f"aesthetic={EMBEDDED / 'aesthetic'}"
    assert score("--scorers", "aesthetic", "--source", own, "--out", "again.parquet") == 0
    assert (pd.read_parquet("again.parquet")["aesthetic"] == by_name).all()


def test_lower_precision_is_stated_and_close(pictures: Path) -> None:
    assert score("--scorers", "clip", "--source", "embedded") == 0
    exact = pd.read_parquet("scores.parquet")["clip"]
    assert score("--scorers", "clip", "--source", "embedded", "--dtype", "bf16") == 0
    assert read_json(Path("scores.json"))["measured"]["dtype"] == "bf16"
    rounded = pd.read_parquet("scores.parquet")["clip"]
    assert rounded.to_numpy() == pytest.approx(exact.to_numpy(), abs=0.05)
    assert not (rounded == exact).all()


def test_images_are_decoded_once_for_all_scorers(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spin.rewards import scoring

    opened: list[Path] = []
    open_image = scoring.open_image
    monkeypatch.setattr(scoring, "open_image", lambda path: (opened.append(path), open_image(path))[1])
    assert score("--scorers", "pickscore,aesthetic,clip", "--source", "embedded") == 0
    assert sorted(opened) == sorted(Path("pictures") / f"{index}.png" for index in range(5))


def test_single_colour_images_are_named_and_take_no_part(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("--scorers", "clip", "--source", "embedded") == 0
    before = read_json(Path("scores.json"))["mean"]["clip"]
    Image.new("RGB", (32, 32)).save(pictures / "9.png")
    (pictures / "9.txt").write_text("a red circle")
    assert score("--scorers", "clip", "--source", "embedded") == 0
    summary = read_json(Path("scores.json"))
    assert summary["flagged_images"] == ["9.png"]
    assert summary["mean"]["clip"] == pytest.approx(before)
    assert "1 of 6 images are of a single colour" in capsys.readouterr().out
    assert pd.read_parquet("scores.parquet")["flagged"].sum() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--images needs --scorers, got none"),
        (["--scorers", "clip,clip"], "must name each scorer once"),
        (["--scorers", "clip", "--out", "x.csv"], "must be a file that ends in .parquet, got x.csv"),
        (["--scorers", "clip", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--scorers", "clip", "--source", "hps=embedded"], "must name one of the scorers clip, got hps"),
        (["--scorers", "klip", "--source", "embedded"], "did you mean clip?"),
        (["--scorers", "clip", "--source", "/no/such/folder"], "must be `embedded`, `hub` or a folder"),
        (
            ["--scorers", "clip", "--source", "embedded", "--device", "quantum"],
            "must be one that this machine has",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_scored(
    arguments: list[str], message: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(*arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["pictures"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "2.png").unlink(), "1 .txt files have none, first 2.txt"),
        (lambda folder: (folder / "2.txt").unlink(), "found no 2.txt beside it"),
        (lambda folder: (folder / "2.txt").write_text(" \n"), "must have a prompt, got an empty one"),
        (lambda folder: (folder / "2.png").write_bytes(b"torn"), "it does not decode"),
        (
            lambda folder: (folder / "metadata.csv").write_text("file_name,text\nabsent.png,a cat\n"),
            "1 are missing, first absent.png",
        ),
        (lambda folder: (folder / "2.txt").write_bytes(b"caf\xe9"), "2.txt must be text in UTF-8"),
        (lambda folder: (folder / "metadata.jsonl").write_text("[1, 2]\n"), "must be a readable jsonl file"),
        (lambda folder: (folder / "metadata.jsonl").write_text("[" * 99_999), "must be a readable"),
        (
            lambda folder: (folder / "metadata.jsonl").write_text(
                '{"file_name": "0.png", "text": "a"}\n{"text": "b"}'
            ),
            "must list its images by file name, got nan",
        ),
        (
            lambda folder: (folder / "2.png").write_bytes(
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
            ),
            "it does not decode",  # Pillow would run an outside program on it
        ),
        (
            lambda folder: [Image.new("RGB", (8, 8)).save(folder / f"{index}.png") for index in range(5)],
            "all 5 images are of a single colour",
        ),
    ],
)
def test_images_that_cannot_be_judged_are_refused_and_nothing_is_written(
    harm: object, message: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(pictures)  # type: ignore[operator]
    assert score("--scorers", "clip", "--source", "embedded") == 2
    assert message in capsys.readouterr().err
    assert not Path("scores.parquet").exists()
    assert not Path("scores.json").exists()


def test_a_list_may_have_both_names_of_a_column_and_unusual_line_ends_in_a_prompt(pictures: Path) -> None:
    row = {"file_name": "0.png", "image": "1.png", "text": "one", "prompt": "two\u2028lines"}
    (pictures / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert score("--scorers", "clip", "--source", "embedded") == 0
    frame = pd.read_parquet("scores.parquet")
    assert frame[["image", "prompt"]].to_numpy().tolist() == [["1.png", "two\u2028lines"]]


def test_a_score_that_is_not_a_number_is_refused(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        name, version, scale, sha256 = "broken", "1", "a number", "0" * 64

        def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
            return torch.tensor([float(np.asarray(image).max()) for image in images]).log() * float("nan")

    class Point:
        name, value = "broken", "their.module:make"

        def load(self) -> object:
            return lambda source, device, dtype: Broken()

    assert EntryPoint  # the real ones have the same three members
    monkeypatch.setattr("spin.rewards.loading.entry_points", lambda group: [Point()])
    assert score("--scorers", "broken") == 2
    assert "broken must give finite scores, got nan for 0.png" in capsys.readouterr().err
    assert not Path("scores.parquet").exists()


def test_the_two_forms_exclude_each_other(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        score("--name", "iter1", "--scorers", "clip")
    with pytest.raises(SystemExit, match="2"):
        main(["score", "--scorers", "clip"])
    assert "one of the arguments --name --images is required" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_in_a_process_of_its_own_far_from_the_project(pictures: Path) -> None:
    rows = [{"file_name": f"{index}.png", "text": prompt} for index, prompt in enumerate(PROMPTS)]
    (pictures / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    command = [sys.executable, "-m", "spin", "score", "--images", "pictures/mine.jsonl", "--scorers", "hps"]
    command += ["--source", "embedded", "--out", "deep/folder/scores.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet("deep/folder/scores.parquet")["prompt"].tolist() == PROMPTS
