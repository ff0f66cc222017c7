"""The page with what the iterations and baselines cost: outputs/cost/report.html.

The page in outputs/report is an output of DVC with the same bytes from run to run, and what a run took differs each time.
So the stage leaves the place of these numbers empty, and they are filled in here, in a copy that is no output.
"""

import json
from typing import Any

from spin import paths
from spin.runtime.files import read_json, replacing_file

_OF_A_MODEL = ("opponents", "train", "baseline")
"""Stages whose cost is that of the model they are named after."""


def write_shown() -> None:
    """Write the page, if there is one, with outputs/cost summed up by model."""
    from spin.evaluation.report import COSTS_PLACE

    models: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(paths.COST.glob("*@*.json")):
        stage, _, model = file.stem.partition("@")
        if stage in _OF_A_MODEL:
            models.setdefault(model, []).append(read_json(file))
    page = paths.REPORT / "report.html"
    if not models or not page.is_file():
        return
    shown = json.dumps({model: cells(costs) for model, costs in models.items()}).replace("<", "\\u003c")
    with replacing_file(paths.COST / "report.html") as temporary:
        text = page.read_text(encoding="utf-8")
        temporary.write_text(text.replace(COSTS_PLACE, COSTS_PLACE.replace("{}", shown)), encoding="utf-8")


def cells(costs: list[dict[str, Any]]) -> list[tuple[float | None, str]]:
    """Value and text of the page's columns: device-time, TFLOP, MFU, peak memory, energy; of what is not known no value."""
    seconds = sum(cost["device_seconds"] for cost in costs)
    tflop = sum(cost["tflop"] for cost in costs)
    attainable = sum(cost["tflop"] / cost["mfu"] for cost in costs if cost["mfu"])
    peak = max(cost["peak_bytes"] for cost in costs) / 2**30
    told = [
        (seconds, f"{seconds:,.0f} s" if seconds < 3600 else f"{seconds / 3600:,.2f} h"),
        (tflop, f"{tflop:.4g}"),
        (100 * tflop / attainable, f"{100 * tflop / attainable:.3g}%") if attainable else (None, ""),
        (peak, f"{peak:.2f} GiB"),
    ]
    if not all("joules" in cost for cost in costs):
        return [*told, (None, "")]
    hours = sum(cost["joules"] for cost in costs) / 3600
    return [*told, (hours, f"{hours:.3g} Wh")]
