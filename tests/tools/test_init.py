"""`spin init`: from a folder of images to a params.yaml that runs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from spin.cli import main
from spin.data.manifest import read_manifest
from spin.errors import DataError
from spin.params.schema import load_params
from spin.runtime.files import read_json
from spin.stages import preflight
from spin.stages.data import run_data
from tests.data.images import USABLE, jpeg, write_mixed_folder
from tests.data.sources import captioned, write_pickapic, write_tar

ROOT = Path(__file__).resolve().parents[2]
OWN_PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with the checkout's profiles."""
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_becomes_parameters_that_bring_it_in(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = write_mixed_folder(inside / "photos")
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 0
    told = capsys.readouterr().out
    assert "photos: a folder with captions in metadata.jsonl" in told
    assert f"read {USABLE + sum(dropped.values())}, kept {USABLE}, dropped {sum(dropped.values())}: " in told
    params = load_params()
    assert params.data.model_dump() == {
        "kind": "folder",
        "path": "photos",
        "trigger": None,
        "repeats": False,
        "num_val": 1,
        "num_test": 2,
        "small_images": "drop",
        "aspect_buckets": None,
    }
    run_data(params)
    card = read_json(Path("outputs/data/card.json"))
    assert card["dropped"] == dropped
    assert card["kept"] == {
        "train": len(read_manifest(Path("outputs/data"))),
        "pairs": 0,
        "val": 1,
        "test": 2,
    }
    (inside / "photos").rename(inside / "elsewhere")  # as on the machine that trains
    preflight.check(params)
    (inside / "outputs/data/card.json").unlink()
    with pytest.raises(DataError, match="there is no folder photos"):
        preflight.check(params)


@pytest.mark.parametrize("profile", OWN_PROFILES)
def test_every_profile_serves_a_folder_and_keeps_its_comments(inside: Path, profile: str) -> None:
    write_mixed_folder(inside / "photos")
    model = ["--base", "some/model", "--resolution", "16"]
    assert main(["init", "--images", str(inside / "photos"), "--profile", profile, *model]) == 0
    params = load_params()
    assert params.data.kind == "folder"
    assert params.data.path == "photos"
    assert (params.base.source, params.base.revision, params.resolution) == ("some/model", None, 16)
    assert not any(baseline.objective == "dpo" for baseline in params.baselines.values())
    assert not any(name.startswith("oracle") for name in params.scorers)
    before, after = (
        path.read_text() for path in (ROOT / "profiles" / f"{profile}.yaml", Path("params.yaml"))
    )
    own, ours = (
        [line for line in text.splitlines() if "batch_size:" not in line]  # which 30 images change
        for text in (before[before.index("training:") : before.index("objective:")], after)
    )
    assert "#" in before
    assert "\n".join(own) in "\n".join(ours)


def test_pickapic_files_are_known_by_their_columns(inside: Path) -> None:
    write_pickapic(inside / "pickapic")
    assert main(["init", "--images", "pickapic", "--profile", "toy", "--min-images", "12"]) == 0
    data = yaml.safe_load(Path("params.yaml").read_text())["data"]
    assert (data["kind"], data["pairs"]) == ("pickapic", True), "the profile has a dpo baseline"
    assert (data["val_split"], data["test_split"]) == ("validation_unique", "test_unique")
    assert (data["num_val"], data["num_test"]) == (4, 4)
    run_data(load_params())
    assert read_json(Path("outputs/data/card.json"))["kept"]["pairs"] > 12


def test_columns_of_parquet_and_tar_files_are_found(inside: Path) -> None:
    rows = captioned(40)
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
    samples = [{"png": row["image"], "json": f'{{"caption": "{row["text"]}"}}'.encode()} for row in rows]
    write_tar(Path("rows.tar"), samples)
    chosen = []
    for source in ("rows.parquet", "rows.tar"):
        assert main(["init", "--images", source, "--profile", "toy", "--force"]) == 0
        data = load_params().data
        assert data.kind == "dataset"
        chosen.append((data.source, data.image_column, data.text_column, data.num_val, data.num_test))
        run_data(load_params())
        assert len(read_manifest(Path("outputs/data"))) == 34
    assert chosen == [("rows.parquet", "image", "text", 2, 4), ("rows.tar", "png", "json.caption", 2, 4)]


def test_only_the_first_images_of_a_large_source_are_decoded(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spin.tools.init.look.IMAGES_DECODED", 10)
    pq.write_table(pa.Table.from_pylist(captioned(60)), "rows.parquet")
    assert main(["init", "--images", "rows.parquet", "--profile", "toy"]) == 0
    assert "the others were not read" in capsys.readouterr().out
    assert load_params().data.num_test in (5, 6), "the number of captions is estimated from the file's footer"
    write_tar(Path("rows.tar"), [{"jpg": row["image"], "txt": row["text"].encode()} for row in captioned(60)])
    assert main(["init", "--images", "rows.tar", "--profile", "toy", "--force"]) == 0
    assert load_params().data.num_test == 1, "a tar file has no footer: only what was seen counts"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "bare"], "bare must hold captions, but it has none of metadata.csv"),
        (["--images", "few"], "few must hold images of at least 3 different captions"),
        (["--images", "./nowhere"], "but there is none at ./nowhere"),
        (["--images", "bare", "--profile", "sd9"], "--profile must be one of paper, sd15"),
        (
            ["--images", "bare", "--resolution", "30"],
            "must be a positive multiple of 8, at most 16384, got 30",
        ),
        (["--images", "bare", "--resolution", "16392"], "a positive multiple of 8, at most 16384, got 16392"),
        (["--images", ""], "--images must name something, got an empty text"),
        (["--images", "odd.parquet"], "odd.parquet must have a column of captions"),
    ],
)
def test_what_cannot_become_parameters_is_one_sentence(
    arguments: list[str], expected: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bare", "few"):
        (inside / name).mkdir()
        (inside / name / "a.jpg").write_bytes(jpeg(0))
    (inside / "few" / "a.txt").write_text("alone")
    pq.write_table(pa.Table.from_pylist([{"image": jpeg(0), "number": 1}]), "odd.parquet")
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("params.yaml").exists()


def test_the_parameter_file_of_a_fresh_clone_is_nobodys_work(inside: Path) -> None:
    write_mixed_folder(inside / "photos")
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 0
    assert load_params().data.kind == "folder"


def test_a_folder_whose_name_has_a_line_break_is_read(inside: Path) -> None:
    write_mixed_folder(inside / "two\nlines")
    assert main(["init", "--images", "two\nlines", "--profile", "toy"]) == 0
    data = load_params().data
    assert data.kind == "folder"
    assert data.path == "two\nlines"


def test_a_parameter_file_is_replaced_only_by_force(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mixed_folder(inside / "photos")
    Path("params.yaml").write_text("mine")
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 2
    assert "add --force to replace it" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == "mine"
    assert main(["init", "--images", "photos", "--profile", "toy", "--force"]) == 0
    load_params()


def test_without_profiles_it_says_so(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "profiles").unlink()
    monkeypatch.setattr("spin.tools.init.profile.FOLDER", inside / "profiles")
    assert main(["init", "--images", "photos"]) == 2
    assert "profiles/ must be there" in capsys.readouterr().err
