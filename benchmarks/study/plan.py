"""What the study does and what it will report, fixed before any of its seeds was played.

Question: does SPIN beat its earlier self, SFT and Diffusion-DPO, each tuned with as many trials, at the updates of one
stage and at those of all three? Asked on a base whose content is solved and on one whose content is not.

Primary outcome, on the 256 test captions, one image each, the same seed for all models:

1. the average winning rate of the four scorers, head to head, and
2. the difference of the oracle's PSNR to the correct picture,

for the `COMPARISONS`. One "holds" where two intervals both leave out one half (PSNR: zero): the one over prompts, in
clusters of the object pair they show, of the mean over seeds; and Student's over seeds. All else is described, not tested:
the arm whose opponents are drawn as the evaluation draws, which has the main arm's settings and fewer seeds, included. With
36 verdicts, not corrected for their number, one or two may be by chance.

Tuning: every method has `TRIALS` of as many settings, played with a seed that the study does not use; the setting with
the highest mean PSNR on the 72 validation captions, four images each, is taken (of SPIN that of the last iteration). Test
captions have no part in it. SPIN's three settings have one iteration 1 in common, and the first of them is the demo's, found
on validation captions with seed 0 before: what is said of iteration 1 by itself is said of a stage that was not tuned here.
"""

from typing import Any

BASES = ("embedded", "embedded-early")
SEEDS = (0, 1, 2, 3, 4)
GUIDED_SEEDS = (0, 1, 2)
"""Of these the second arm is played too."""
TUNING_SEED = 100
STEPS = 64
"""Updates of a stage; three stages make the total."""
TUNING_IMAGES = 4
GUIDANCES = (1.0, 3.0)
"""At which opponents are drawn: the model's own distribution, and the evaluation's. The main arm is the first."""
SPIN = ("iter1", "iter2", "iter3")
COMPARISONS = (
    ("iter1", "base"),
    ("iter2", "iter1"),
    ("iter3", "iter2"),
    *((model, over) for over in ("sft", "dpo") for model in ("iter1", "iter3")),
    ("iter3", "sft_total"),
    ("iter3", "dpo_total"),
)
"""(model, the one it is measured against)."""
DESCRIBED = (("iter3", "iter3_guided"),)
"""The same numbers without a verdict, for the seeds that both have."""


def _spin(*stages: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Three iterations from their learning rates and betas."""
    before = ("base", *SPIN)
    return {
        name: {"prev": prev, "learning_rate": rate, "num_steps": STEPS, "warmup_steps": 0, "beta": beta}
        for name, prev, (rate, beta) in zip(SPIN, before, stages, strict=False)
    }


def _baseline(objective: str, stages: int, learning_rate: float, **more: float) -> dict[str, Any]:
    steps = {"num_steps": stages * STEPS, "warmup_steps": 0}
    return {"objective": objective, "prev": "base", "learning_rate": learning_rate, **steps, **more}


TRIALS: dict[str, tuple[dict[str, Any], ...]] = {
    "sft": tuple(_baseline("sft", 1, rate) for rate in (3e-5, 1e-4, 3e-4)),
    "sft_total": tuple(_baseline("sft", 3, rate) for rate in (3e-5, 1e-4, 3e-4)),
    "dpo": tuple(
        _baseline("dpo", 1, rate, beta=beta) for rate, beta in ((3e-5, 2e3), (3e-5, 5e2), (1e-5, 2e3))
    ),
    "dpo_total": tuple(
        _baseline("dpo", 3, rate, beta=beta) for rate, beta in ((3e-5, 2e3), (3e-5, 5e2), (1e-5, 2e3))
    ),
    "spin": (
        _spin((3e-5, 2e3), (2e-5, 2e3), (1e-5, 2e3)),  # what the demo does
        _spin((3e-5, 2e3), (2e-5, 5e3), (1e-5, 1e4)),  # beta rises, as the paper's
        _spin((3e-5, 2e3), (3e-5, 5e3), (2e-5, 5e3)),
    ),
}
"""Settings that are tried, by method: as many for each."""
