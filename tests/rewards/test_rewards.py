"""Loading reward models, scoring folders, and the embedded scorers, on tiny models of the real architectures."""

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from spin.errors import ScoreError
from spin.rewards.heads import head_for
from spin.rewards.loading import load_scorer
from spin.rewards.scoring import score_folder, score_images
from spin.runtime.files import read_json, sha256_file, write_json
from spin.tools.toy.scorers import build_scorers
from spin.toy.world import render, split_scenes, to_uint8

NAMES = ("pickscore", "hps", "image_reward", "clip", "aesthetic")
SCENES = split_scenes()["test"][:6]
PROMPTS = [scene.caption for scene in SCENES]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scorers trained for a step or two: right in form, wrong in judgement."""
    folder = tmp_path_factory.mktemp("scorers")
    build_scorers(folder, seed=0, steps_scale=0.001)
    return folder


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.fromarray(to_uint8(render(scene))) for scene in SCENES]


class Constant:
    """A scorer of a user's own."""

    name, version, scale, sha256 = "constant", "1", "a number", "0" * 64

    def __init__(self, value: float = 1.0) -> None:
        self.value, self.decoded = value, 0

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        self.decoded += len(images)
        return torch.full((len(images),), self.value)


@pytest.fixture
def samples(tmp_path: Path, images: list[Image.Image]) -> Path:
    folder = tmp_path / "samples" / "iter1"
    (folder / "images").mkdir(parents=True)
    rows = []
    for index, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        image.save(folder / "images" / f"{index:05d}-0.png")
        row = {"prompt_id": f"test-{index}", "prompt": prompt, "category": "", "image_index": 0, "seed": 1000}
        rows.append({**row, "image": f"images/{index:05d}-0.png"})
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    write_json(folder / "protocol.json", {"num_prompts": len(PROMPTS), "images_per_prompt": 1, "seed": 1000})
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_what_build_wrote_loads_and_scores_each_image_on_its_own(
    name: str, tiny: Path, images: list[Image.Image]
) -> None:
    scorer = load_scorer(name, str(tiny / name))
    together = scorer.score(images, PROMPTS)
    alone = torch.cat(
        [scorer.score([image], [prompt]) for image, prompt in zip(images, PROMPTS, strict=True)]
    )
    assert together.dtype == torch.float32
    assert together.shape == (len(images),)
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert scorer.version.startswith("embedded")
    assert len(scorer.sha256) == 64


@pytest.mark.parametrize("name", ["pickscore", "hps", "image_reward", "clip"])
def test_scores_depend_on_the_prompt(name: str, tiny: Path, images: list[Image.Image]) -> None:
    scorer = load_scorer(name, str(tiny / name))
    assert not torch.equal(scorer.score(images, PROMPTS), scorer.score(images, PROMPTS[::-1]))


def test_building_twice_from_one_seed_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    build_scorers(tmp_path, seed=0, steps_scale=0.001, families=("clip",))
    for name in ("clip", "aesthetic"):
        again, before = (root / name / "model.safetensors" for root in (tmp_path, tiny))
        assert sha256_file(again) == sha256_file(before), (
            "trained alone or with others, the weights are the same"
        )


def test_open_clip_conversion_keeps_what_a_hugging_face_clip_computes() -> None:
    from spin.tools.toy import scorer_models as models

    torch.manual_seed(0)
    clip, converted = models.new_clip("gelu").eval(), models.new_open_clip().eval()
    converted.load_state_dict(models.to_open_clip(clip))
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[3, 5, 7, clip.config.text_config.eos_token_id]])
    ids = torch.cat([ids, torch.zeros(1, 12, dtype=torch.long)], dim=1)
    image = clip.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(converted.encode_image(pixels), image, rtol=1e-4, atol=1e-5)
    text = clip.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(converted.encode_text(ids), text, rtol=1e-4, atol=1e-5)


def test_the_oracle_prefers_the_right_clean_image(images: list[Image.Image]) -> None:
    for name in ("oracle_psnr", "oracle_attributes"):
        oracle = load_scorer(name, "toy")
        right, wrong = oracle.score(images, PROMPTS), oracle.score(images, [PROMPTS[-1], *PROMPTS[:-1]])
        assert (right > wrong).all()


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
