"""What a killed run had spent is added to the next one's only where it is an amount."""

import json
from collections import Counter
from pathlib import Path

import pytest

from spin.runtime.meter import Ask
from spin.stages.spent import SPENT, Spent, spent_before

WHOLE = Spent(2.5, 1e12, 7, 3.0, Counter({Ask("denoiser", 8, 16): 4}))


@pytest.mark.parametrize("joules", [3.0, None])
def test_what_is_kept_is_read_again(tmp_path: Path, joules: float | None) -> None:
    spent = Spent(2.5, 1e12, 7, joules, WHOLE.asked)
    spent.keep(tmp_path)
    assert spent_before(tmp_path) == spent


@pytest.mark.parametrize("key", ["device_seconds", "attainable", "peak_bytes", "joules", "rows"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", '"7"', "[]"])
def test_what_is_no_amount_is_not_added_to_the_cost(tmp_path: Path, key: str, value: str) -> None:
    WHOLE.keep(tmp_path)
    told = json.loads((tmp_path / SPENT).read_text())
    if key == "rows":
        told["asked"][0][-1] = json.loads(value)
    else:
        told[key] = json.loads(value)
    (tmp_path / SPENT).write_text(json.dumps(told))
    assert spent_before(tmp_path) == Spent()
