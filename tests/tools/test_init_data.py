"""`spin init` on images that cannot be used, and on few of them: what it says, refuses and writes."""

import csv
import warnings
from pathlib import Path

import pytest
import yaml

from spin.cli import main
from spin.params.schema import Params, load_params
from spin.tools.init.schedule import EPOCHS, for_images
from tests.data.images import jpeg, write_mixed_folder

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with the checkout's profiles."""
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(sides: list[int]) -> list[str]:
    """Images with .txt captions; the command that takes them."""
    Path("photos").mkdir()
    for index, side in enumerate(sides):
        Path(f"photos/{index:02d}.jpg").write_bytes(jpeg(index, (side, side + 9)))
        Path(f"photos/{index:02d}.txt").write_text(f"caption {index}")
    return ["init", "--images", "photos", "--profile", "toy"]


def test_too_few_usable_images_are_refused_with_what_would_keep_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = photos([24] * 20 + [64] * 4)
    assert main(command) == 2
    refused = capsys.readouterr().err
    assert (
        "must hold at least 16 images that can be used, found 4 (read 24, kept 4, dropped 20: 20" in refused
    )
    assert "--resolution 24 keeps 24 of them, --small-images enlarge keeps 24, or go on" in refused
    assert refused.count("\n") == 1
    assert not list(Path().glob("params*"))

    # Each of the ways out is one.
    for way in (["--resolution", "24"], ["--small-images", "enlarge"], ["--min-images", "4"]):
        assert main([*command, *way, "--force"]) == 0
    told = capsys.readouterr().out
    assert "warning: 20 of 24 images are smaller than 32 pixels and will not be used; --resolution 24" in told
    assert "warning: 1 test prompts will hardly tell models apart" in told
    assert load_params().data.small_images == "drop"  # type: ignore[union-attr]
    assert main([*command, "--small-images", "enlarge", "--force"]) == 0
    assert load_params().data.small_images == "upscale"  # type: ignore[union-attr]
    assert "smaller than" not in capsys.readouterr().out


def test_a_large_image_that_is_not_too_large_is_used_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = photos([64] * 20)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 64 * 73 - 1)
    with warnings.catch_warnings(record=True) as told:
        assert main(command) == 0
    assert not [each for each in told if "pixels" in str(each.message)]


def test_dropped_files_are_named_the_first_on_the_terminal_and_all_in_a_file(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = write_mixed_folder(inside / "photos")
    for index in range(2):
        (inside / "photos" / f"stray{index}.jpg").write_bytes(jpeg(200 + index))
    (inside / "photos" / "stray0.txt").write_text("a caption that metadata.jsonl hides")
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 0
    told = capsys.readouterr().out
    assert (
        "2 images have no caption: metadata.jsonl does not list them, and the caption files of 1 of them are not"
        in told
    )
    (line,) = [line for line in told.splitlines() if line.startswith("not used: ")]
    assert line.count("(") == 10
    assert line.endswith(f"and {sum(dropped.values()) + 2 - 10} more; params.dropped.csv has all")
    with Path("params.dropped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    reasons = [row["why"] for row in rows]
    assert {each: reasons.count(each) for each in dropped} == dropped
    assert [row["file"] for row in rows if row["why"] == "not listed in the metadata"] == [
        "stray0.jpg",
        "stray1.jpg",
    ]
    assert {"file": "tiny.jpg", "why": "smaller than 32 pixels"} in rows
    assert {"file": "caption0.jpg", "why": "without a caption"} in rows


def test_images_without_a_caption_beside_them_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    command = photos([40] * 20)
    Path("photos/03.txt").unlink()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "dropped 1: 1 without a caption" in told
    assert "not used: 03.jpg (without a caption)" in told


@pytest.mark.parametrize("images", [14, 90, 1000, 30_000])
@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_updates_and_batch_are_for_the_number_of_images(profile: Path, images: int) -> None:
    before = profile.read_text()
    raw = yaml.safe_load(before)
    text, said = for_images(before, raw, images)
    scaled = Params.model_validate(yaml.safe_load(text))
    original = Params.model_validate(raw)
    batch = scaled.training.batch_size
    names = [*scaled.iterations, *scaled.baselines]
    for name in names:
        now, then = scaled.stage(name), original.stage(name)
        longest = max(original.stage(each).num_steps for each in names)
        assert now.num_steps <= then.num_steps
        assert (now.num_steps - 1) * batch < EPOCHS * images
        assert now.warmup_steps / now.num_steps == pytest.approx(
            then.warmup_steps / then.num_steps, abs=0.5 / now.num_steps + 0.05
        )
        if said and then.num_steps == longest:
            assert now.num_steps * batch >= EPOCHS * images, "not fewer passes than the rule says"
    if not said:
        assert text == before
    assert bool(said) == any(
        EPOCHS * images < original.stage(name).num_steps * original.training.batch_size for name in names
    )


def test_the_papers_data_keep_the_papers_numbers() -> None:
    for name in ("paper", "sd15"):
        before = (ROOT / "profiles" / f"{name}.yaml").read_text()
        assert for_images(before, yaml.safe_load(before), 58_000) == (before, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--small-images", "stretch"], "--small-images must be drop or enlarge, got stretch; choose one."),
        (["--min-images", "0"], "--min-images must be at least 1, got 0; choose a number."),
        (["--config", "some/model"], "--config must go with a --base that is one .safetensors file"),
    ],
)
def test_wrong_values_of_options_are_refused_before_the_images_are_looked_at(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--images", "nowhere", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
