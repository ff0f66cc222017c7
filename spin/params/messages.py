"""One sentence for a schema breach: the dotted name, the rule, the value that came, what to do."""

import difflib
import re
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")

_RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_BOUNDS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<")}
_BOUNDS["less_than_equal"] = ("le", "<=")


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """Return the first breach as a sentence; unknown keys come first, since they often explain a missing one."""
    breaches = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    return _sentence(breaches[0], schema)


def _sentence(item: Any, schema: type[BaseModel]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    name = _dotted(item["loc"], schema)
    if kind == "extra_forbidden":
        return f"unknown key {name}; {_suggestion(item['loc'], schema)}"
    if kind == "missing":
        return f"{name} must be given, found nothing; copy it from the file in profiles/ that is nearest to yours."
    if kind == "value_error":
        message = str(context["error"])
        known = not name or message.startswith(
            (
                "iterations",
                "baselines.",
                "continual.",
                "evaluate.",
                "tables.",
                "opponents.",
                "data.",
                "prompt_sets.",
                "resolution ",
                "the name",
            )
        )
        return f"{message}." if known else f"{name}.{message}."
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        return f"{name} must be {sign} {context[key]}, got {value!r}; choose a value in that range."
    if kind in _RULES:
        return f"{name} must be {_RULES[kind]}, got {_received(value)}."
    if kind in ("literal_error", "union_tag_invalid"):
        expected = context.get("expected") or context.get("expected_tags")
        received = context.get("tag", value)
        return f"{name} must be one of {expected}, got {received!r}; choose one of them."
    return f"{name}: {item['msg']}, got {_received(value)}."


def _received(value: Any) -> str:
    if isinstance(value, str) and _NUMBER.match(value):
        return f"the text '{value}'; write it without quotes"
    if value is None:
        return "nothing (null); write a value"
    return f"{value!r} ({type(value).__name__}); correct it"


def _suggestion(location: tuple[Any, ...], schema: type[BaseModel]) -> str:
    names = _known_keys(location[:-1], schema)
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    if near:
        return f"did you mean {'.'.join([*_path(location[:-1], schema), near[0]])}?"
    return f"known here are {', '.join(sorted(names))}." if names else "remove it."


def _dotted(location: tuple[Any, ...], schema: type[BaseModel]) -> str:
    return ".".join(_path(location, schema))


def _path(location: tuple[Any, ...], schema: type[BaseModel]) -> list[str]:
    """The location without the tags that pydantic puts in for the members of a union."""
    path: list[str] = []
    here: Any = schema
    for part in location:
        tags = _tags(here)
        if part in tags:
            here = tags[part]
            continue
        path.append(str(part))
        here = _step(here, part)
    return path


def _known_keys(location: tuple[Any, ...], schema: type[BaseModel]) -> list[str]:
    here: Any = schema
    for part in location:
        tags = _tags(here)
        here = tags[part] if part in tags else _step(here, part)
    return list(here.model_fields) if _is_model(here) else []


def _step(here: Any, part: Any) -> Any:
    """The annotation found under the key `part` of the annotation `here`."""
    here = _bare(here)
    if _is_model(here):
        field = here.model_fields.get(part)
        return field.annotation if field else None
    if typing.get_origin(here) is dict:
        return typing.get_args(here)[1]
    return None


def _tags(here: Any) -> dict[str, Any]:
    """The members of a discriminated union by their tag."""
    members = [item for item in typing.get_args(_bare(here)) if _is_model(item)]
    tags = {}
    for member in members:
        for name in ("kind", "objective"):
            if name in member.model_fields:
                tags[typing.get_args(member.model_fields[name].annotation)[0]] = member
    return tags


def _bare(here: Any) -> Any:
    return typing.get_args(here)[0] if hasattr(here, "__metadata__") else here


def _is_model(here: Any) -> bool:
    return isinstance(here, type) and issubclass(here, BaseModel)
