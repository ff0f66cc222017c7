"""Scoring a folder: every image gets a finite row, and a folder that is not whole is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from spin.errors import ScoreError
from spin.rewards.loading import load_scorer
from spin.rewards.scoring import score_folder, score_images
from spin.runtime.files import read_json
from tests.rewards.scenes import PROMPTS, Constant


def test_score_folder_writes_a_row_per_image_and_what_was_measured_how(
    samples: Path, tiny: Path, tmp_path: Path
) -> None:
    scorers = [load_scorer(name, str(tiny / name)) for name in ("pickscore", "aesthetic")]
    out = tmp_path / "scores"
    score_folder(samples, scorers, out, batch_size=4)
    frame, summary = pd.read_parquet(out / "scores.parquet"), read_json(out / "summary.json")
    assert list(frame) == "prompt_id prompt category image_index seed pickscore aesthetic flagged".split()
    assert frame["pickscore"].dtype == np.float64
    assert summary["model"] == "iter1"
    assert summary["mean"]["pickscore"] == pytest.approx(frame["pickscore"].mean())
    assert summary["median"]["aesthetic"] == pytest.approx(frame["aesthetic"].median())
    assert summary["scorers"]["pickscore"]["sha256"] == scorers[0].sha256
    assert summary["protocol"] == read_json(samples / "protocol.json")
    assert summary["num_flagged"] == 0


def test_a_black_image_is_flagged_and_left_out_of_the_mean_but_kept_in_the_table(
    samples: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(samples / "images" / "00002-0.png")

    class Brightness(Constant):
        def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
            return torch.tensor([float(np.asarray(image).max()) for image in images])

    score_folder(samples, [Brightness()], tmp_path / "scores", batch_size=3)
    frame = pd.read_parquet(tmp_path / "scores" / "scores.parquet")
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert frame["flagged"].tolist() == [False, False, True, False, False, False]
    assert frame.loc[2, "constant"] == 0.0
    assert summary["num_flagged"] == 1
    assert summary["mean"]["constant"] == pytest.approx(frame.loc[~frame["flagged"], "constant"].mean())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused_and_nothing_is_written(
    value: float, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ScoreError, match=r"constant must give finite scores, got (nan|inf) for images/00000-0\.png"
    ):
        score_folder(samples, [Constant(value)], tmp_path / "scores", batch_size=4)
    assert not (tmp_path / "scores").exists()


def test_missing_images_and_empty_prompts_are_refused(samples: Path, tmp_path: Path) -> None:
    (samples / "images" / "00003-0.png").unlink()
    with pytest.raises(ScoreError, match=r"6 images that it lists, 1 are missing, first images/00003-0\.png"):
        score_folder(samples, [Constant()], tmp_path / "scores", batch_size=4)
    frame = pd.read_parquet(samples / "manifest.parquet")
    frame.drop(3).to_parquet(samples / "manifest.parquet")
    with pytest.raises(ScoreError, match=r"must hold 6 images \(6 prompts, 1 each\), got 5"):
        score_folder(samples, [Constant()], tmp_path / "scores", batch_size=4)
    frame.assign(prompt=["  ", *PROMPTS[1:]]).to_parquet(samples / "manifest.parquet")
    with pytest.raises(ScoreError, match="must have a prompt, got an empty one"):
        score_folder(samples, [Constant()], tmp_path / "scores", batch_size=4)


@pytest.mark.parametrize("stated", ["sidecar", "csv", "jsonl", "manifest"])
def test_any_folder_of_images_with_prompts_can_be_scored(
    stated: str, images: list[Image.Image], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for index, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        image.save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": prompt})
        if stated == "sidecar":
            (folder / f"{index}.txt").write_text(prompt + "\n")
    if stated == "csv":
        pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    if stated == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    if stated == "manifest":
        pd.DataFrame(rows).to_parquet(folder / "mine.parquet")
    given = folder / "mine.parquet" if stated == "manifest" else folder
    scorer = Constant()
    summary = score_images(given, [scorer], tmp_path / "scores.parquet", batch_size=4)
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert frame["prompt"].tolist() == PROMPTS
    assert frame["constant"].tolist() == [1.0] * len(images)
    assert scorer.decoded == len(images)
    assert read_json(tmp_path / "scores.json") == summary


def test_a_folder_without_prompts_or_images_is_refused(images: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="must hold images with prompts, found none"):
        score_images(tmp_path, [Constant()], tmp_path / "scores.parquet")
    images[0].save(tmp_path / "lonely.png")
    with pytest.raises(ScoreError, match=r"found no lonely\.txt beside it"):
        score_images(tmp_path, [Constant()], tmp_path / "scores.parquet")
    (tmp_path / "lonely.png").write_bytes(b"not an image")
    (tmp_path / "lonely.txt").write_text("a red circle")
    with pytest.raises(ScoreError, match="must be an image, but it does not decode"):
        score_images(tmp_path, [Constant()], tmp_path / "scores.parquet")
