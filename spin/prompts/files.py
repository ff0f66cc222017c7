"""Reading prompts from files as people have them: .txt, .csv, .tsv, .parquet, .json, .jsonl."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spin.errors import DataError
from spin.runtime.csv_rows import csv_header, csv_rows

PROMPT_NAMES = ("prompt", "caption", "text")
"""Columns that hold the prompt, whatever their case; the first that is there."""
Row = tuple[str, ...]
"""(prompt, category), the category empty where the file has none; where there are such, also cluster, and challenge."""
CLUSTER_NAMES = ("cluster", "user_id")
"""Columns that say which prompts share something; `user_id` is Pick-a-Pic's."""


def read_rows(path: Path) -> list[Row]:
    """Read a file of prompts, in its order. Raises `DataError` if it is missing, torn, empty or has an empty prompt.

    .txt: one prompt a line, blank lines skipped. .json: a list of texts or of objects. .csv and .tsv with the usual quoting, .parquet
    and .jsonl: a column prompt (or caption, or text), and category, cluster (or user_id) and challenge if there are such.
    """
    if not path.is_file():
        raise DataError(f"{path} must be a file of prompts, but there is none; correct the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"a file of prompts must be {', '.join(READERS)}, got {path.name}; convert it.")
    try:
        rows = reader(path)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(
            f"{path} must be a readable {path.suffix[1:]} file in UTF-8, but is not ({reason}); write it again."
        ) from None
    return checked(rows, str(path))


def checked(rows: Sequence[tuple[Any, ...]], origin: str) -> list[Row]:
    """Refuse an empty set and empty prompts; text is otherwise kept as it is."""
    if not rows:
        raise DataError(f"{origin} must hold prompts, got none; give another file.")
    for number, (prompt, *_) in enumerate(rows, start=1):
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(
                f"{origin} must have a prompt in every row, but row {number} is empty; write one or delete the row."
            )
    return [
        (prompt, category if isinstance(category, str) else "", *map(_named, further))
        for prompt, category, *further in rows
    ]


def _named(value: Any) -> str:
    """The name of a cluster or challenge, a user's number as it is; empty where there is none."""
    return "" if value is None or value != value else str(value)


def _read_text(path: Path) -> list[Row]:
    return [(line, "") for line in _lines(path) if line]


def blank_lines(path: Path) -> int:
    """Blank lines of a readable .txt before its last prompt; of other files none."""
    return _lines(path).count("") if path.suffix.lower() == ".txt" else 0


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]


def _read_json(path: Path) -> list[Row]:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, list):
        raise ValueError(f"a list is expected, got {type(value).__name__}")
    if all(isinstance(item, str) for item in value):
        return [(item, "") for item in value]
    return from_frame(pd.DataFrame(value))


def _read_jsonl(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # a prompt may hold Unicode's other line ends
    return from_frame(pd.DataFrame([json.loads(line) for line in lines if line.strip()]))


def _read_csv(path: Path) -> list[Row]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    frame = pd.DataFrame(csv_rows(path, separator), columns=csv_header(path, separator), dtype=object)
    return from_frame(frame.fillna(""))


def _read_parquet(path: Path) -> list[Row]:
    return from_frame(pd.read_parquet(path))


def from_frame(frame: pd.DataFrame) -> list[Row]:
    """Take prompt and category from a table; raises `ValueError` without a column of prompts."""
    columns = {str(name).lower(): name for name in reversed(frame.columns)}
    named = next((columns[name] for name in PROMPT_NAMES if name in columns), None)
    if named is None:
        found = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(f"it needs a column prompt, caption or text, found {found}")
    category = frame[columns["category"]] if "category" in columns else [""] * len(frame)
    further: Sequence[Iterable[Any]] = [frame[columns[name]] for name in CLUSTER_NAMES if name in columns][:1]
    if "challenge" in columns:
        further = [*(further or [[""] * len(frame)]), frame[columns["challenge"]]]
    return list(zip(frame[named], category, *further, strict=True))


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
