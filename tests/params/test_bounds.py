"""Values that are too large to be meant are refused before any work, and what came is shown on one line."""

import time
from pathlib import Path

import pytest

from spin.errors import ParamsError
from spin.params.buckets import AspectBuckets
from spin.params.schema import load_params
from tests.params.test_params import Raw, raw, sentence, set_at

__all__ = ["raw"]
FOLDER = {
    "kind": "folder",
    "path": "x",
    "num_val": 1,
    "num_test": 1,
    "small_images": "drop",
    "repeats": False,
}
FOLDER |= {"aspect_buckets": None}


@pytest.mark.parametrize("trigger", ["sks\x00dog", "\x1b[2Jsks", "s" * 201, "s" * 10**6, ""])
def test_a_trigger_is_a_few_printable_words(raw: Raw, tmp_path: Path, trigger: str) -> None:
    raw["data"] = {**FOLDER, "trigger": trigger}
    said = sentence(raw, tmp_path)
    assert said.startswith("data.trigger must be null or words on one line"), said
    assert said.isprintable()
    assert len(said) < 400


def test_a_resolution_and_a_number_of_variants_are_bounded(raw: Raw, tmp_path: Path) -> None:
    tags = {"keep": 0, "dropout": 0.0}
    set_at("training", "tags", value={**tags, "variants": 10**7})(raw)
    assert sentence(raw, tmp_path).startswith("training.tags.variants must be <= 1000, got 10000000")
    set_at("training", "tags", value={**tags, "variants": 1000})(raw)
    set_at("resolution", value=16392)(raw)
    assert sentence(raw, tmp_path).startswith("resolution must be <= 16384, got 16392")


def test_the_sizes_of_the_largest_buckets_are_counted_in_no_time() -> None:
    started = time.process_time()
    assert (16384, 16384) in AspectBuckets(step=8, max_ratio=100.0).sizes(16384)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "path",
    [("iterations", "iter1", "prev"), ("base", "config"), ("tables", "over", 0)],
)
def test_a_value_with_a_line_break_is_shown_on_one_line(
    raw: Raw, tmp_path: Path, path: tuple[str, ...]
) -> None:
    set_at(*path, value="two\nlines.ckpt\x1b[2J\u2028")(raw)
    said = sentence(raw, tmp_path)
    assert r"two\nlines.ckpt\x1b[2J\u2028" in said
    assert said.isprintable()


def test_a_comparison_with_a_line_break_is_shown_on_one_line(raw: Raw, tmp_path: Path) -> None:
    for name in ("finished", "next", "prompts"):
        raw["continual"] = {"c": {"finished": "iter1", "next": "iter2", "every": 1, "prompts": "test"}}
        raw["continual"]["c"][name] = "two\nlines"
        assert r"two\nlines" in sentence(raw, tmp_path)


def test_a_sentence_keeps_the_signs_of_every_language() -> None:
    assert (
        str(ParamsError("n\u00e9 \u4f60\u3000\u597d \u0645\u06cc\u200c\u062e"))
        == "n\u00e9 \u4f60\u3000\u597d \u0645\u06cc\u200c\u062e"
    )
    with pytest.raises(ParamsError, match=r"no\\nwhere\.yaml must be a parameter file, found none"):
        load_params(Path("no\nwhere.yaml"))
