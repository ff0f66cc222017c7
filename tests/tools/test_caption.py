"""`spin caption` with a model on this machine, and what it does with a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spin.cli import main
from spin.params.schema import load_params
from spin.runtime.csv_rows import csv_rows
from tests.data.images import jpeg
from tests.tools.captioners import MODELS, NUM_PHOTOS, SHORT, WORDS, Endpoint


def captions_in(folder: Path) -> dict[str, str]:
    table = folder / "metadata.csv"
    if table.is_file():
        return {row["file_name"]: row["text"] for row in csv_rows(table)}
    texts = sorted(folder.rglob("*.txt"))
    return {str(text.relative_to(folder).with_suffix(".jpg")): text.read_text().strip() for text in texts}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", ["txt", "csv"])
def test_images_without_captions_become_a_folder_that_init_takes(
    kind: str,
    way: str,
    photos: Path,
    captioner: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["caption", "--images", "photos", "--model", captioner(kind), "--write", way, *SHORT]) == 0
    assert f"{NUM_PHOTOS} of {NUM_PHOTOS} images captioned" in capsys.readouterr().out
    captions = captions_in(photos)
    assert len(captions) == NUM_PHOTOS
    assert all(set(caption.split()) <= set(WORDS) for caption in captions.values())
    assert len(set(captions.values())) > 3, "each image has its own"
    assert main(["init", "--images", "photos", "--profile", "toy"]) == 0
    assert load_params().data.kind == "folder"


def test_the_batch_size_changes_no_caption(photos: Path, captioner: Callable[[str], str]) -> None:
    found = []
    for size in ("1", "7"):
        options = ["--model", captioner("blip"), "--replace", "--batch-size", size, *SHORT]
        assert main(["caption", "--images", "photos", *options]) == 0
        found.append(captions_in(photos))
    assert found[0] == found[1]


def test_a_prompt_is_how_the_captions_of_blip_begin(photos: Path, captioner: Callable[[str], str]) -> None:
    assert (
        main(["caption", "--images", "photos", "--model", captioner("blip"), "--prompt", "two hats", *SHORT])
        == 0
    )
    assert all(caption.startswith("two hats") for caption in captions_in(photos).values())


@pytest.mark.parametrize("way", ["txt", "csv"])
def test_a_run_that_ends_early_goes_on_where_it_was(
    way: str, photos: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["caption", "--images", "photos", "--model", "any", "--write", way, "--batch-size", "1"]
    options += ["--endpoint", endpoint.url]
    endpoint.answer = lambda number: f"caption {number}" if number < 8 else (401, "no")
    assert main(options) == 2
    assert "HTTP 401: no" in capsys.readouterr().err
    first = {name: text for name, text in captions_in(photos).items() if text}
    assert len(first) == 8
    endpoint.answer = lambda number: f"caption {number}"
    assert main(options) == 0
    captions = captions_in(photos)
    assert len(endpoint.asked) == NUM_PHOTOS + 1, "none is captioned twice"
    assert captions.items() >= first.items()
    assert len(set(captions.values())) == NUM_PHOTOS
    assert not [path for path in photos.rglob(".*") if path.is_file()], "nothing half-written stays"
    assert main(options) == 0
    assert "all 20 images have a caption" in capsys.readouterr().out
    assert len(endpoint.asked) == NUM_PHOTOS + 1


def test_captions_that_are_there_are_kept_unless_told(photos: Path, endpoint: Endpoint) -> None:
    (photos / "00.txt").write_text("mine")
    (photos / "02.caption").write_text("of kohya")
    (photos / "04.txt").write_text(" \n")
    options = ["caption", "--images", "photos", "--model", "any", "--endpoint", endpoint.url]
    assert main(options) == 0
    assert len(endpoint.asked) == NUM_PHOTOS - 2
    assert (photos / "00.txt").read_text() == "mine"
    assert not (photos / "02.txt").exists()
    assert main([*options, "--write", "csv"]) == 0, "a table takes over what the files say"
    assert len(endpoint.asked) == NUM_PHOTOS - 2
    (photos / "metadata.csv").write_text("file_name,note,text\n00.jpg,first,mine\nelsewhere.jpg,gone,lost\n")
    assert main([*options, "--replace"]) == 0
    rows = list(csv_rows(photos / "metadata.csv"))
    assert (rows[0]["note"], rows[1]) == (
        "first",
        {"file_name": "elsewhere.jpg", "note": "gone", "text": "lost"},
    )
    assert rows[0]["text"].startswith("caption")
    assert len(rows) == NUM_PHOTOS + 1


@pytest.mark.parametrize("way", ["txt", "csv"])
def test_a_caption_that_is_a_link_out_of_the_folder_is_none(
    way: str, photos: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("a secret")
    (photos / "00.txt").symlink_to(tmp_path / "secret.txt")
    (photos / "02.caption").symlink_to(tmp_path / "secret.txt")
    (photos / "04.txt").symlink_to("04.txt")
    options = ["--model", "any", "--endpoint", endpoint.url, "--write", way]
    assert main(["caption", "--images", "photos", *options]) == 0
    assert len(endpoint.asked) == NUM_PHOTOS
    captions = captions_in(photos)
    assert captions["00.jpg"].startswith("caption")
    assert captions["02.jpg"].startswith("caption")
    assert (tmp_path / "secret.txt").read_text() == "a secret"


def test_what_a_model_says_becomes_one_line_of_plain_text(photos: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: (
        f'\n=HYPERLINK("x")\x00\x1b[31m a\u202e dog,\r\n"{number}"\t' + "long " * 999
    )
    options = ["--model", "any", "--endpoint", endpoint.url, "--write", "csv"]
    assert main(["caption", "--images", "photos", *options]) == 0
    captions = captions_in(photos)
    assert len(captions) == NUM_PHOTOS
    for caption in captions.values():
        assert caption.startswith('HYPERLINK("x") [31m a dog, "')
        assert caption.isprintable()
        assert len(caption) <= 2000


def test_images_that_cannot_be_captioned_are_named(
    photos: Path, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "00.jpg").write_bytes(b"no image")
    (tmp_path / "secret.jpg").write_bytes(jpeg(50))
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    endpoint.answer = lambda number: "" if number == 3 else f"caption {number}"
    options = ["--model", "any", "--endpoint", endpoint.url, "--batch-size", "1"]
    assert main(["caption", "--images", "photos", *options]) == 0
    told = capsys.readouterr().out
    assert "18 of 20 images captioned" in told
    assert "2 images have no caption: 00.jpg (that do not decode)" in told
    assert "08.jpg (of which the model says nothing)" in told
    assert len(captions_in(photos)) == 18
