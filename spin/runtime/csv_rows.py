"""Rows of CSV and TSV files as people write them; the one reader of such files that come from outside."""

import csv
from collections.abc import Iterator
from pathlib import Path

LONGEST_FIELD = 1 << 24
"""Bytes of a field; Python's own limit of 128 kB would stop at one long caption."""


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yield each row by the header's names, texts as they are; a field that a row lacks is not in it.

    Raises `ValueError` for a row with more fields than the header, which is what a comma in a text without quotes makes:
    taken as it comes, the caption would end at the comma, or another column would be the caption. Raises `ValueError` for
    a header that names a column twice and, with commas, for a quote that is never closed; and `OSError` and `UnicodeDecodeError` as reading does.
    """
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=delimiter == ",")
        try:
            header = next(reader, [])
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise ValueError(f"its header names the column {twice[0]!r} twice")
            for row in reader:
                if len(row) > len(header):
                    raise ValueError(
                        f"line {reader.line_num} has {len(row)} fields where the header has {len(header)}: a text with a "
                        "comma must stand in double quotes"
                    )
                if row:
                    yield dict(zip(header, row, strict=False))
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None


def csv_header(path: Path, delimiter: str = ",") -> list[str]:
    """The names in the first line."""
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream, delimiter=delimiter), [])
