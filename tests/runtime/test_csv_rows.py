"""A comma in a text never changes what is read: it stands in quotes, or the file is refused."""

from pathlib import Path

import pytest

from spin.data.card import DataCard
from spin.data.folder import captioned_files
from spin.errors import DataError, ScoreError
from spin.prompts.files import read_rows
from spin.rewards.listing import read_listing
from spin.runtime.csv_rows import csv_rows

BARE = "file_name,text\na.png,a blue ball\nb.png,a red cube, on a table\n"
QUOTED = 'file_name,text\na.png,a blue ball\nb.png,"a red cube, on a table"\n'
LINE = r"line 3 has 3 fields where the header has 2: a text with a comma must stand in double quotes"


def test_a_quoted_comma_is_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("\ufeff" + QUOTED, encoding="utf-8")
    assert [row["text"] for row in csv_rows(path)] == ["a blue ball", "a red cube, on a table"]


def test_an_unquoted_comma_is_refused_wherever_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(BARE)
    with pytest.raises(DataError, match=LINE):
        list(captioned_files(tmp_path, DataCard(source="folder")))
    with pytest.raises(ScoreError, match=LINE):
        read_listing(tmp_path)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("category,prompt\ncolour,a blue ball\nplace,a red cube, on a table\n")
    with pytest.raises(DataError, match=LINE):
        read_rows(prompts)


def test_quotes_make_a_prompt_whole(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('category,prompt\nplace,"a red cube, on a table"\n')
    assert read_rows(prompts) == [("a red cube, on a table", "place")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text,text\na,b\n", "the column 'text' twice"),
        ('file_name,text\na.png,"open\n', "line 2: unexpected end"),
    ],
)
def test_a_header_or_quote_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        list(csv_rows(path))
