"""Plans of the embedded profile with networks and scorers whose costs are round numbers."""

from typing import Any

import yaml

from spin.models.flops import NetworkCost
from spin.params.schema import Params
from spin.tools.plan.estimate import Counts, Plan, Work
from tests.models.tiny import ROOT


def params(**changes: object) -> Params:
    raw = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        raw[section][name] = value
    return Params.model_validate(raw)


COST = NetworkCost(
    parameters=1000,
    forward=1.0,
    adapted=1.0,
    backward=2.0,
    activations=4,
    encode=0.5,
    decode=0.25,
    latents=16,
    text=32,
)


def counts(**changed: Any) -> Counts:
    """What a plan of the embedded profile is made for, its scorers at costs that are easily told apart."""
    given: dict[str, Any] = {
        "images": 512,
        "pair_images": 1024,
        "pairs": 512,
        "prompts": {"test": 256, "val": 72},
    }
    given |= {"rows": changed.get("images", 512), "adapters": 0}
    return Counts(**{**given, "scorers": {"pickscore": 0.125, "oracle_psnr": 0.0}, **changed})


def work_of(plan: Plan) -> dict[str, Work]:
    return {item.name: item for item in plan.work}
