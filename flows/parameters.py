"""The parameters of an isolated run: a profile or params.yaml, with some of them changed, checked before any work."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spin.errors import ParamsError
from spin.params.messages import describe
from spin.params.reading import read_yaml
from spin.params.schema import Params
from spin.rewards.names import ORACLES
from spin.stages import preflight


def chosen(root: Path, profile: str | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the profile's parameters, or for None those of params.yaml, with the overrides in place; not yet checked."""
    file = _profile(root, profile) if profile else root / "params.yaml"
    if not file.is_file():
        raise ParamsError(
            f"{file.name} must be a parameter file, found none in {root}; copy one of profiles/ to it."
        )
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        raise ParamsError(
            f"{file.name} must hold a mapping of parameters, got {type(raw).__name__}; see profiles/."
        )
    for name, value in overrides.items():
        _put(raw, name, value)
    return raw


def _profile(root: Path, name: str) -> Path:
    known = {file.stem: file for file in sorted((root / "profiles").glob("*.yaml"))}
    if name not in known:
        raise ParamsError(
            f"profile must be one of {', '.join(known) or 'none'}, got {name}; choose a file of profiles/."
        )
    return known[name]


def _put(raw: dict[str, Any], name: str, value: Any) -> None:
    """Set a parameter by its dotted name. A name that nothing knows is refused by the schema, which suggests the nearest."""
    *sections, last = name.split(".")
    place = raw
    for depth, section in enumerate(sections, start=1):
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            whole = ".".join(sections[:depth])
            raise ParamsError(
                f"overrides must name parameters, but {whole} has no parts, so no {name}; set {whole}."
            )
    place[last] = value


def checked(raw: dict[str, Any], root: Path) -> Params:
    """Return the parameters as the schema reads them; raises a `SpinError` with one sentence where they cannot be meant."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(describe(error, Params)) from None
    preflight.check(params, root)
    return params


def for_evaluation(
    raw: dict[str, Any], models: dict[str, dict[str, Any]], prompt_sets: list[str]
) -> dict[str, Any]:
    """Return parameters that train nothing and compare `models`, name -> source and revision, with the base.

    All but the last of them are those to compute winning rates over. Held-out captions need the data; without them no
    data is brought in. Where other prompts are asked for, the ceiling and the oracles, which know the embedded world's
    captions alone, are left out.
    """
    evaluate = dict(raw["evaluate"])
    sets = prompt_sets or evaluate["prompt_sets"]
    known = raw["prompt_sets"]
    unknown = [name for name in sets if name not in known]
    if unknown:
        raise ParamsError(
            f"prompt_sets must name some of {', '.join(known)}, got {unknown[0]}; correct the name."
        )
    own = [name for name in sets if known[name]["prompts"] in ("val", "test")]
    foreign = len(own) < len(sets)
    references = [] if foreign else evaluate["references"]
    scorers = {name: each for name, each in raw["scorers"].items() if not (foreign and name in ORACLES)}
    others = list(models)
    evaluate |= {"models": ["base", *others], "prompt_sets": list(sets), "references": references}
    nothing: dict[str, dict[str, Any]] = {
        "iterations": {},
        "baselines": {},
        "continual": {},
        "released": models,
    }
    data = raw["data"] if own else {"kind": "none"}
    averaged = [name for name in raw["tables"]["average_of"] if name in scorers]
    tables = raw["tables"] | {"over": ["base", *others[:-1]], "average_of": averaged}
    used = {name: known[name] for name in sets}
    given = {"data": data, "prompt_sets": used, "evaluate": evaluate, "scorers": scorers, "tables": tables}
    return raw | nothing | given
