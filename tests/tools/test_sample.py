"""`spin sample` draws with any model, and an image depends on its prompt, its number and the seed alone."""

from pathlib import Path

import pytest
from PIL import Image

from spin.cli import main
from spin.runtime.files import write_json
from spin.stages.data import run_base
from spin.tools.sample import file_name
from tests.models.tiny import miniature_params, write_params
from tests.stages.projects import parameters


@pytest.fixture
def inside(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, miniature_params(tiny_base))
    run_base(parameters(tiny_base))
    return tmp_path


def test_the_same_image_whatever_else_is_drawn(inside: Path) -> None:
    red, both = ["a red circle"], ["a blue square", "a red circle"]
    assert main(["sample", *red, "--model", "base", "--count", "2", "--out", "one"]) == 0
    assert main(["sample", *both, "--model", "outputs/checkpoints/base", "--count", "3", "--out", "two"]) == 0
    assert main(["sample", *red, "--model", "base", "--count", "1", "--seed", "1", "--out", "three"]) == 0
    assert len(list(Path("two").iterdir())) == 6
    first, second, other = (drawn(*each) for each in (("one", 0, 0), ("one", 0, 1), ("three", 1, 0)))
    assert first == drawn("two", 0, 0)
    assert second == drawn("two", 0, 1)
    assert first != second
    assert first != other


def drawn(folder: str, seed: int, number: int) -> bytes:
    """The pixels of a red circle."""
    with Image.open(Path(folder, f"{file_name('a red circle')}-seed{seed}-{number}.png")) as image:
        return image.tobytes()


def test_another_prompt_replaces_nothing_and_an_image_says_what_it_is_of(inside: Path) -> None:
    longer = "a red circle " * 20
    assert len(file_name("\U00010330" * 90).encode()) < 80, "letters of four bytes"
    for prompt in ("a red circle", "a red circle, blue", longer, longer + "again", "красный круг", "../.."):
        assert main(["sample", prompt, "--model", "base", "--count", "1"]) == 0
    files = list(Path("drawn/base").iterdir())
    assert len(files) == 6
    said = []
    for file in files:
        with Image.open(file) as image:
            said.append(image.info["prompt"])
    assert {"красный круг", longer + "again", "../.."} <= set(said)


def test_the_best_is_the_registrys(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "a red circle"]) == 2
    assert "found no outputs/registry/registry.json" in capsys.readouterr().err
    entries = [{"model": "iter1", "champion": False}, {"model": "base", "champion": True}]
    write_json(Path("outputs/registry/registry.json"), {"models": entries})
    assert main(["sample", "a red circle", "--count", "1"]) == 0
    assert "by outputs/checkpoints/base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "iter9"], "--model must be best, one of base, sft, dpo, iter1, iter2"),
        (["--model", "base", "--count", "0"], "--count must be at least 1"),
        ([" ", "--model", "base"], "a prompt must not be empty"),
        (["\udcff", "--model", "base"], "a prompt must be UTF-8 text"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    inside: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "a red circle", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not Path("drawn").exists()
