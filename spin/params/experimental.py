"""Settings that no profile uses and no result in benchmarks/results measures: they work, but nobody knows how well.

The schema, `spin train --help` and docs/training.md mark them; a training that uses one says so. A setting leaves this list
with the result that measures it.
"""

from spin.params.sections import ParamSections

EXPERIMENTAL: dict[str, tuple[str, ...]] = {
    "objective.kind": ("exact",),
    "objective.function": ("hinge", "squared", "exponential", "correlation"),
    "objective.timestep_weighting": ("exact",),
    "objective.loser_scale": ("a number",),
    "objective.reference": ("random",),
    "opponents.drawn_by": ("mixture", "all_earlier"),
    "training.timestep_sampling": ("logit_normal",),
    "training.optimizer": ("adamw_8bit", "adafactor"),
    "training.ema_decay": ("a number",),
}
"""Dotted name -> its experimental values; "a number" is any but null."""


def experimental_in(params: ParamSections) -> list[str]:
    """Settings of `params` that are experimental, as `objective.kind: exact`."""
    found = []
    for name, values in EXPERIMENTAL.items():
        section, key = name.split(".")
        value = getattr(getattr(params, section), key)
        if value in values or ("a number" in values and value is not None):
            found.append(f"{name}: {value}")
    return found


def experimental_help() -> str:
    """All of them on one line each, for `--help`."""
    lines = (f"  {name}: {', '.join(values)}" for name, values in EXPERIMENTAL.items())
    return "\n".join(["experimental settings, which no result in benchmarks/results measures yet:", *lines])
