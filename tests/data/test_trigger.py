"""A word to teach stands before every caption, and is words."""

from pathlib import Path

import pytest

from spin.data.captions import with_trigger
from spin.data.manifest import read_prompts
from spin.errors import ParamsError
from spin.params.schema import load_params
from spin.runtime.files import read_json
from tests.data.images import write_numbered
from tests.data.test_repeats import bring, folder_data
from tests.models.tiny import miniature_params, write_params


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("on a hill", "sks dog, on a hill"),
        ("a sks dog, on a hill", "a sks dog, on a hill"),
        ("sks dog", "sks dog"),
        ("sks dogs", "sks dog, sks dogs"),
    ],
)
def test_a_trigger_goes_before_every_caption_that_has_it_not(caption: str, expected: str) -> None:
    assert with_trigger(caption, "sks dog") == expected
    assert with_trigger(caption, None) == caption


def test_held_out_captions_have_the_trigger_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = bring(write_numbered(tmp_path / "images"), out, 2, 2, repeats=True, trigger="sks dog")
    assert read_json(out / "card.json")["trigger"] == "sks dog"
    texts = [*manifest["caption"], *read_prompts(out, "val")["prompt"], *read_prompts(out, "test")["prompt"]]
    assert all(text.startswith("sks dog") for text in texts)


@pytest.mark.parametrize("trigger", ["", " sks", "sks,", "a\nb", "a  b"])
def test_a_trigger_is_words(trigger: str, tmp_path: Path, tiny_base: Path) -> None:
    raw = miniature_params(tiny_base)
    raw["data"] = folder_data() | {"trigger": trigger}
    write_params(tmp_path, raw)
    with pytest.raises(ParamsError, match=r"data\.trigger must be null or words on one line"):
        load_params(tmp_path / "params.yaml")
