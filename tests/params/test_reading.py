"""A parameter file is what it says: no key twice, nothing that grows when it is read; the sentence names file and line."""

import time
from pathlib import Path

import pytest

from spin.errors import ParamsError
from spin.params.reading import read_yaml

BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 0\nresolution: 32\nseed: 1\n", r"params\.yaml: line 3 gives seed a second time"),
        ("training:\n  batch_size: 1\n  batch_size: 2\n", r"line 3 gives batch_size a second time"),
        (BOMB, r"at most 20000 entries, aliases written out"),
        ("a: &a [*a]\n", r"at most 20000 entries"),
        ("a: " + "[" * 60 + "]" * 60, r"must not nest deeper than 20 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, r"must not nest deeper than 20 levels"),
        ("seed: " + "9" * 5000, r"must be YAML, but it does not parse"),
        ("a: [1\n", r"must be YAML, but it does not parse"),
        ("x" * ((1 << 20) + 1), r"at most 1 MB"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ParamsError, match=said) as refused:
        read_yaml(path)
    assert "\n" not in str(refused.value)
    assert time.process_time() - started < 5


def test_an_alias_is_read_as_what_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: &rate 1.0e-5\nb: {first: *rate, second: *rate}\n")
    assert read_yaml(path) == {"a": 1e-5, "b": {"first": 1e-5, "second": 1e-5}}


def test_numbers_are_read_as_dvc_reads_and_writes_them(tmp_path: Path) -> None:
    """`dvc exp run -S rate=0.00001` writes 1e-05."""
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-05\nb: 5e3\nc: -2E+1\nd: 1.e2\ne: .5e1\nf: e5\ng: 1e\nh: 0x1e5\n")
    read = {"a": 1e-5, "b": 5000.0, "c": -20.0, "d": 100.0, "e": 5.0, "f": "e5", "g": "1e", "h": 0x1E5}
    assert read_yaml(path) == read
