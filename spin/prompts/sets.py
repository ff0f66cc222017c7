"""One way to any prompt set: a published one by its name, or a file."""

import difflib
import logging
from collections import Counter
from pathlib import Path

import pandas as pd

from spin.data.manifest import prompt_frame
from spin.errors import DataError
from spin.prompts.files import READERS, Row, blank_lines, read_rows
from spin.prompts.named import NAMED, NamedSet

logger = logging.getLogger(__name__)


def load_prompt_set(spec: str, source: str | Path | None = None) -> pd.DataFrame:
    """Load the prompt set `spec`: columns prompt_id, prompt, category, and cluster where the set says what prompts share;
    one row per prompt, in the set's own order.

    `spec` is a name of `NAMED` or a file (see `spin.prompts.files`). A named set comes from the hub, or from
    `source`, a copy of the user's own, and must have its published number of prompts in every category. Prompt ids
    are NAME-CATEGORY-NUMBER, unique in the set, the number counted within the category.
    Raises `DataError` if there is no such set, it cannot be had or read, or its counts are not the published ones.
    """
    if spec in NAMED:
        named = NAMED[spec]
        rows = named.fetch() if source is None else named.read(Path(source))
        _check_counts(spec, rows, named, source)
        return _frame(spec, rows)
    path = Path(spec)
    if not path.is_file() and path.suffix.lower() not in READERS:
        near = difflib.get_close_matches(spec, NAMED, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMED)}."
        raise DataError(f"{spec} is neither a prompt set nor a file of prompts; {hint}")
    if source is not None:
        raise DataError(
            f"a source belongs to a named prompt set, got {source} for the file {spec}; leave it out."
        )
    rows = read_rows(path)
    if blank := blank_lines(path):
        logger.info("%s: blank lines skipped: %d", path, blank)
    return _frame(path.stem, rows)


def count_by_category(prompts: pd.DataFrame) -> dict[str, int]:
    """Number of prompts in each category, by name."""
    return {str(name): int(count) for name, count in prompts["category"].value_counts().sort_index().items()}


def _check_counts(name: str, rows: list[Row], named: NamedSet, source: str | Path | None) -> None:
    """Refuse a named set whose total, or whose count in some category, is not the published one."""
    origin = "the hub" if source is None else str(source)
    expected = sum(named.counts.values())
    if len(rows) != expected:
        raise DataError(
            f"{name} must have {expected} prompts, got {len(rows)} from {origin}; it is not the published set, so give"
            " it as a file without that name, or give the whole set."
        )
    if set(named.counts) == {""}:
        return  # a set without categories may have some in a user's copy
    found = Counter(row[1] for row in rows)
    for category in sorted({*named.counts, *found}):
        if found[category] != named.counts.get(category, 0):
            raise DataError(
                f"{name} must have {named.counts.get(category, 0)} prompts of category {category or 'none'}, got"
                f" {found[category]} from {origin}; give the published set."
            )


def _frame(name: str, rows: list[Row]) -> pd.DataFrame:
    counted: Counter[str] = Counter()
    records = []
    for prompt, category, *cluster in rows:
        part = f"{name}-{category.lower().replace(' ', '_')}" if category else name
        records.append(
            (f"{part}-{counted[part]:05d}", prompt, category, *cluster)
        )  # "A b" and "a_b" share a part
        counted[part] += 1
    return prompt_frame(records)
