"""What the iterations and baselines cost here, for the page: outputs/cost/costs.js.

The page is an output of DVC with the same bytes from run to run, and what a run took has others each time. So no number of
it stands in the page: the page asks for this file when it is opened, and without it has no such columns.
"""

import json
from typing import Any

from spin import paths
from spin.runtime.files import read_json, replacing_file

_OF_A_MODEL = ("opponents", "train", "baseline")
"""Stages whose cost is that of the model they are named after."""


def write_shown() -> None:
    """Sum up outputs/cost by model, as the page's script reads it."""
    models: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(paths.COST.glob("*@*.json")):
        stage, _, model = file.stem.partition("@")
        if stage in _OF_A_MODEL:
            models.setdefault(model, []).append(read_json(file))
    with replacing_file(paths.COST / "costs.js") as temporary:
        shown = {model: cells(costs) for model, costs in models.items()}
        temporary.write_text(f"window.SPIN_COSTS = {json.dumps(shown)};\n", encoding="utf-8")


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
