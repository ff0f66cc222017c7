"""Prompt sets: the published counts hold or the set is refused, and files are read as people write them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from spin.cli import main
from spin.errors import DataError
from spin.prompts.named import HPS_STYLES, NAMED, PARTI_CATEGORIES
from spin.prompts.sets import count_by_category, load_prompt_set


@pytest.fixture(scope="module")
def parti(shared: Path) -> Path:
    path = shared / "data" / "PartiPrompts.tsv"
    if not path.is_file():
        pytest.skip("reads PartiPrompts.tsv of ../shared/data, which is not here")
    return path


@pytest.fixture
def hps(tmp_path: Path) -> Path:
    """The benchmark's four files, with prompts of our own."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for style in HPS_STYLES:
        prompts = [f"a drawing of {style} number {index}" for index in range(800)]
        (folder / f"{style}.json").write_text(json.dumps(prompts))
    return folder


def test_the_real_parti_prompts_are_1632_category_by_category(parti: Path) -> None:
    prompts = load_prompt_set("parti_prompts", parti)
    assert list(prompts) == ["prompt_id", "prompt", "category", "cluster", "challenge"]
    assert set(prompts["cluster"]) == {""}, "each prompt is a sample of its own"
    assert prompts["challenge"].nunique() == 11
    assert len(prompts) == 1632
    assert count_by_category(prompts) == PARTI_CATEGORIES
    assert sum(PARTI_CATEGORIES.values()) == 1632
    assert prompts["prompt_id"].is_unique
    assert prompts["prompt"].is_unique
    assert prompts["prompt"].iloc[0] == "bond"


def test_quoted_prompts_of_parti_keep_commas_and_lose_only_the_quoting(parti: Path) -> None:
    prompts = load_prompt_set("parti_prompts", parti)["prompt"]
    assert not prompts.str.contains('""', regex=False).any()
    assert prompts.str.contains('"', regex=False).any()


def test_the_file_alone_reads_as_the_named_set_does(parti: Path) -> None:
    by_path = load_prompt_set(str(parti))
    assert by_path["prompt"].tolist() == load_prompt_set("parti_prompts", parti)["prompt"].tolist()
    assert by_path["category"].nunique() == 12


def test_a_named_set_with_another_count_is_refused(parti: Path, tmp_path: Path) -> None:
    lines = parti.read_text(encoding="utf-8").splitlines(keepends=True)
    short = tmp_path / "short.tsv"
    short.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match=r"parti_prompts must have 1632 prompts, got 1631 from .*short\.tsv"):
        load_prompt_set("parti_prompts", short)
    moved = [*lines[:1], lines[1].replace("\tAbstract\t", "\tArts\t"), *lines[2:]]
    short.write_text("".join(moved), encoding="utf-8")
    with pytest.raises(DataError, match="must have 51 prompts of category Abstract, got 50"):
        load_prompt_set("parti_prompts", short)


def test_the_hps_benchmark_keeps_its_styles_and_their_order(hps: Path) -> None:
    prompts = load_prompt_set("hpsv2", hps)
    assert count_by_category(prompts) == dict.fromkeys(HPS_STYLES, 800)
    assert prompts["prompt_id"].iloc[0] == "hpsv2-anime-00000"
    assert prompts["prompt_id"].iloc[2400] == "hpsv2-photo-00000"
    assert prompts["prompt"].iloc[2401] == "a drawing of photo number 1"


def test_an_hps_style_that_is_short_or_missing_is_refused(hps: Path) -> None:
    path = hps / "photo.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    with pytest.raises(DataError, match="hpsv2 must have 3200 prompts, got 3199"):
        load_prompt_set("hpsv2", hps)
    path.unlink()
    with pytest.raises(DataError, match=r"photo\.json must be a file of prompts, but there is none"):
        load_prompt_set("hpsv2", hps)


def test_hps_comes_from_the_files_that_the_benchmark_reads(
    hps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, name: str, repo_type: str) -> str:
        asked.append((repository, repo_type))
        return str(hps.parent / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(load_prompt_set("hpsv2")) == 3200
    assert set(asked) == {("zhwang/HPDv2", "dataset")}


def test_pick_a_pic_reads_the_captions_of_one_split_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset` itself runs, on a folder laid out as the repository is, images and all."""
    import datasets

    (tmp_path / "data").mkdir()
    for split, count in (("test_unique", 500), ("validation_unique", 499)):
        frame = pd.DataFrame({"caption": [f"{split} {index}" for index in range(count)], "jpg_0": b"\xff"})
        frame["user_id"] = frame.index // 4
        frame.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    load = datasets.load_dataset

    def local(repository: str, **options: object) -> object:
        assert repository == "yuvalkirstain/pickapic_v2"
        rows = load(str(tmp_path), **options)
        assert list(next(iter(rows))) == ["caption", "user_id"], "images are not read"
        return rows

    monkeypatch.setattr(datasets, "load_dataset", local)
    prompts = load_prompt_set("pickapic_test_unique")
    assert prompts["prompt"].tolist() == [f"test_unique {index}" for index in range(500)]
    assert prompts["cluster"].tolist() == [str(index // 4) for index in range(500)], (
        "a user's prompts belong together"
    )
    with pytest.raises(
        DataError, match="pickapic_validation_unique must have 500 prompts, got 499 from the hub"
    ):
        load_prompt_set("pickapic_validation_unique")


def test_a_hub_that_cannot_be_reached_is_one_sentence_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> object:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    for name in ("parti_prompts", "hpsv2", "pickapic_test_unique"):
        with pytest.raises(
            DataError, match=r"could not be had \(ConnectionError: no route to host\); connect, or"
        ):
            load_prompt_set(name)


def test_galleries_of_the_paper_need_no_network() -> None:
    assert len(load_prompt_set("spin_figure2")) == 3
    assert load_prompt_set("spin_figure11")["prompt"].iloc[1] == "a cartoon of an angry shark"
    assert set(NAMED) >= {"pickapic_test_unique", "parti_prompts", "hpsv2"}


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "parquet", "json", "jsonl"])
def test_prompts_come_out_as_they_went_in(kind: str, tmp_path: Path) -> None:
    prompts = ['a "quoted" word, and a comma', "null", "naïve café 猫\u2028 in a hat"]
    frame = pd.DataFrame({"Category": ["a", "b", "a"], "Caption": prompts})
    path = tmp_path / f"mine.{kind}"
    if kind == "txt":
        path.write_text("\ufeff" + "\r\n".join(prompts) + "\n\n", encoding="utf-8", newline="")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(prompts))
    elif kind == "jsonl":
        rows = (json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records"))
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    read = load_prompt_set(str(path))
    assert read["prompt"].tolist() == prompts
    assert read["prompt_id"].is_unique
    if kind not in ("txt", "json"):
        assert read["category"].tolist() == ["a", "b", "a"]
        assert read["prompt_id"].tolist() == ["mine-a-00000", "mine-b-00000", "mine-a-00001"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n\n", "must hold prompts, got none"),
        ("a.csv", 'prompt,category\none,a\n"",b\n', "row 2 is empty; write one or delete the row"),
        ("a.csv", "words\none\n", "it needs a column prompt, caption or text, found words"),
        ("a.json", '{"a": 1}', "a list is expected, got dict"),
        ("a.json", "[1, 2", "must be a readable json file"),
        ("a.json", "[" * 100_000, "must be a readable json file"),
        ("a.jsonl", "[" * 100_000, "must be a readable jsonl file"),
        ("a.parquet", "torn", "must be a readable parquet file"),
        ("a.docx", "x", "must be .txt, .csv, .tsv, .parquet, .json, .jsonl, got a.docx"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        load_prompt_set(str(tmp_path / name))


def test_blank_lines_of_a_text_file_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("one\n\n \ntwo\n\n")
    with caplog.at_level("INFO"):
        assert load_prompt_set(str(tmp_path / "a.txt"))["prompt"].tolist() == ["one", "two"]
    assert "a.txt: blank lines skipped: 2" in caplog.text


def test_an_empty_prompt_of_a_parquet_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": ["one", None]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2 is empty"):
        load_prompt_set(str(tmp_path / "a.parquet"))


def test_categories_that_differ_in_case_or_blanks_only_still_get_ids_of_their_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": list("abcd"), "category": ["People", "people", "A b", "a_b"]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    assert load_prompt_set(str(tmp_path / "mine.csv"))["prompt_id"].is_unique


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"neither a prompt set nor a file of prompts; did you mean parti_prompts\?"
    ):
        load_prompt_set("partiprompts")
    with pytest.raises(DataError, match="known are pickapic_test_unique"):
        load_prompt_set("zzz")
    with pytest.raises(DataError, match=r"missing\.txt must be a file of prompts, but there is none"):
        load_prompt_set(str(tmp_path / "missing.txt"))
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(DataError, match="a source belongs to a named prompt set"):
        load_prompt_set(str(tmp_path / "a.txt"), tmp_path)


def test_the_command_counts_and_writes(hps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set.parquet"
    assert main(["prompts", "hpsv2", "--source", str(hps), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "concept-art  800" in " ".join(text.split("\n"))
    assert "hpsv2: 3200 prompts, 3200 different ones" in text
    assert len(pd.read_parquet(out)) == 3200
    assert main(["prompts", "partiprompts"]) == 2
    assert "did you mean parti_prompts?" in capsys.readouterr().err
