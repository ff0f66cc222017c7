"""A profile's text with some of its sections written anew; its comments stay."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from spin.errors import ParamsError

FOLDER = Path(__file__).resolve().parents[3] / "profiles"
"""Profiles of the project's checkout; an installed package has none."""


def profile_path(name: str) -> Path:
    """The file of a profile; raises `ParamsError` if there is no folder of profiles or none of that name."""
    folder = next((each for each in (Path("profiles"), FOLDER) if each.is_dir()), None)
    if folder is None:
        raise ParamsError(
            "profiles/ must be there to write params.yaml from, found none; run in the project's folder."
        )
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        raise ParamsError(f"--profile must be one of {known}, got {name}; choose one of them.")
    return path


def is_a_profile(path: Path) -> bool:
    """Whether a file is one of the profiles as they ship, such as the params.yaml of a fresh clone: nobody's work."""
    return path.is_file() and path.read_bytes() in [each.read_bytes() for each in FOLDER.glob("*.yaml")]


def with_section(text: str, name: str, section: Mapping[str, Any], remark: str = "") -> str:
    """Replace a top-level section, up to the next top-level line."""
    lines = "".join(f"  {key}: {_scalar(value)}\n" for key, value in section.items())
    return _replaced(
        rf"^{name}:.*\n(?:[ ].*\n)*", f"{name}:{f'  # {remark}' if remark else ''}\n{lines}", text
    )


def with_value(text: str, name: str, value: Any) -> str:
    """Replace a top-level value and drop its comment, which was about another one."""
    return _replaced(rf"^{name}:.*\n", f"{name}: {_scalar(value)}\n", text)


def with_nested_value(text: str, section: str, name: str, value: Any, remark: str = "") -> str:
    """Replace a value of a top-level section that stands on a line of its own, with its comment."""
    line = f"  {name}: {_scalar(value)}{f'  # {remark}' if remark else ''}\n"
    return _inside(text, section, lambda body: _replaced(rf"^  {name}:.*\n", line, body))


def with_number(text: str, section: str, entry: str, name: str, value: int) -> str:
    """Replace a number of an entry of a top-level section, as of iter1 in iterations; its comment stays."""
    found = rf"(^  {re.escape(entry)}:.*(?:\n    .*)*?\b{name}: )\d+"
    return _inside(text, section, lambda body: re.sub(found, rf"\g<1>{value}", body, count=1, flags=re.M))


def for_own_images(text: str, pairs: bool) -> str:
    """Take out what only the embedded world can do, and without pairs also the baselines that need them."""
    params = yaml.safe_load(text)
    gone = [name for name, each in params["baselines"].items() if each["objective"] == "dpo" and not pairs]
    for name in [*gone, *(name for name in params["scorers"] if name.startswith("oracle_"))]:
        text = re.sub(rf"^  {re.escape(name)}: \{{.*\n", "", text, flags=re.M)
    if len(gone) == len(params["baselines"]):
        text = re.sub(r"^baselines:.*\n", "baselines: {}\n", text, flags=re.M)
    text = re.sub(r"^(  references:).*\n", r"\1 []\n", text, flags=re.M)
    for key, names in (("models", params["evaluate"]["models"]), ("over", params["tables"]["over"])):
        kept = [name for name in names if name not in gone]
        text = re.sub(rf"^(  {key}:) \[.*?\]", rf"\1 [{', '.join(kept)}]", text, flags=re.M)
    return text


def _inside(text: str, section: str, change: Callable[[str], str]) -> str:
    """Change a top-level section alone."""
    body = rf"^{section}:.*\n(?:[ ].*\n)*"
    return re.sub(body, lambda match: change(match.group()), text, count=1, flags=re.M)


def _replaced(pattern: str, replacement: str, text: str) -> str:
    text, count = re.subn(pattern, lambda _: replacement, text, flags=re.M)
    if count != 1:
        raise ParamsError(f"a profile must have one section {replacement.partition(':')[0]}, found {count}.")
    return text


def _scalar(value: Any) -> str:
    """A value as YAML on one line: null, true, 3, 'a: b', "two\\nlines"."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    options: dict[str, Any] = {"default_flow_style": True, "default_style": style, "allow_unicode": True}
    written: str = yaml.safe_dump(value, width=10**6, **options)
    return written.split("\n")[0]
