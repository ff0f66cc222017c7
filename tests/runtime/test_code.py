"""A hash of what code means: comments, docstrings and layout do not change it, a constant does."""

from pathlib import Path

import pytest

from spin.runtime import code

MODULES = {
    "spin/__init__.py": '"""The package."""\n__version__ = "1"\n',
    "spin/errors.py": "class Wrong(Exception): ...\n",
    "spin/maths.py": '"""Maths."""\nfrom spin.errors import Wrong\n\nHALF = 0.5\n"""One half."""\n\n\ndef half(x):\n'
    '    """Halve."""\n    return HALF * x\n',
    "spin/page.py": 'def page():\n    return read("page.html")\n',
    "spin/page.html": "<p>",
    "spin/other.py": "OTHER = 1\n",
    "spin/stage.py": "from spin import paths\nfrom spin.other import OTHER\n\nWEIGHT = 2\n\n\n"
    "def run():\n    from spin.maths import half\n    return _twice(half(1))\n\n\n"
    "def _twice(x):\n    return WEIGHT * x\n\n\ndef show():\n    import spin.page\n    return OTHER\n",
    "spin/paths.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return tmp_path / "spin"


def code_of(start: str) -> dict[str, str]:
    for cached in (code._tree, code._meaning, code.code_digest):
        cached.cache_clear()
    return code.code_of(start)


@pytest.fixture(autouse=True)
def _forget() -> None:
    """What another test's package held is not remembered."""
    code_of("spin.errors")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("HALF = 0.5\n", "HALF = 0.5  # a comment\n"),
        ('"""Halve."""', '"""Another docstring, of\n\n    several lines."""'),
        ('"""One half."""', '"""Fifty percent."""'),
        ('"""Maths."""\n', ""),
        ("\n\n\ndef", "\n\n\n\n\n# A section.\ndef"),
        ("HALF * x", "(HALF *\n            x)"),
        ("0.5", "5e-1"),
    ],
)
def test_what_says_nothing_to_the_machine_changes_nothing(package: Path, old: str, new: str) -> None:
    before = code_of("spin.stage:run")
    edit(package / "maths.py", old, new)
    assert code_of("spin.stage:run") == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("maths.py", "0.5", "0.25"),
        ("maths.py", "HALF * x", "HALF + x"),
        ("errors.py", "Wrong", "Bad"),
        ("stage.py", "WEIGHT = 2", "WEIGHT = 3"),
        ("stage.py", "WEIGHT * x", "x"),
        ("stage.py", "half(1)", "half(2)"),
    ],
)
def test_a_changed_meaning_of_anything_reached_is_seen(package: Path, file: str, old: str, new: str) -> None:
    before = code_of("spin.stage:run")
    edit(package / file, old, new)
    assert code_of("spin.stage:run") != before


def test_only_what_the_function_uses_of_its_module_counts(package: Path) -> None:
    before = code_of("spin.stage:run")
    assert before.keys() == {"spin", "spin.errors", "spin.maths", "spin.stage:run"}
    edit(package / "stage.py", "return OTHER", "return OTHER + 1")
    edit(package / "other.py", "1", "2")
    assert code_of("spin.stage:run") == before
    assert code_of("spin.stage:show").keys() == {
        "spin", "spin.other", "spin.page", "spin/page.html", "spin.stage:show"
    }  # fmt: skip


def test_a_file_that_a_module_names_counts_by_its_bytes_and_a_stray_one_does_not(package: Path) -> None:
    before = code_of("spin.stage:show")
    (package / "page.html~").write_text("an editor's")
    assert code_of("spin.stage:show") == before
    (package / "page.html").write_text("<p> ")
    assert code_of("spin.stage:show") != before


def test_a_new_version_number_retrains_nothing(package: Path) -> None:
    before = code_of("spin.stage:run")
    edit(package / "__init__.py", '"1"', '"2"')
    assert code_of("spin.stage:run") == before


def test_a_relative_import_is_refused(package: Path) -> None:
    edit(package / "maths.py", "from spin.errors", "from .errors")
    with pytest.raises(ValueError, match=r"spin\.maths must import by full names"):
        code_of("spin.stage:run")
