"""Who is measured, and at what."""

from dataclasses import dataclass

from benchmarks.speed.subjects import APART


@dataclass(frozen=True)
class Contestant:
    """One row of a part: who, and how many at a time; None is the best of those tried."""

    label: str
    name: str
    size: int | None = None
    variant: str = ""
    processes: int = 1


COMPILED = "this project, compiled"
RECIPE_ALONE = "Diffusion-DPO's recipe, one pair at a time"
RECIPE_BEST = "Diffusion-DPO's recipe, at its best micro-batch"
PIPELINE_ALONE = "diffusers' pipeline, one prompt a call"
PIPELINE_BEST = "diffusers' pipeline, at its best batch"
ONE_PROCESS = "this project, 1 process"

OURS = "benchmarks.speed.ours"
CONTESTANTS = {
    "training": [
        Contestant("this project", f"{OURS}:training"),
        Contestant(COMPILED, f"{OURS}:training", variant="compiled"),
        Contestant(RECIPE_ALONE, "benchmarks.speed.peers:diffusion_dpo", 1),
        Contestant(RECIPE_BEST, "benchmarks.speed.peers:diffusion_dpo"),
    ],
    "drawing": [
        Contestant("this project", f"{OURS}:drawing", variant="direct"),
        Contestant(COMPILED, f"{OURS}:drawing", variant="direct compiled"),
        Contestant("this project, posteriors of the images included", f"{OURS}:drawing", variant="reencode"),
        Contestant(PIPELINE_ALONE, "benchmarks.speed.drawing_peers:pipeline", 1),
        Contestant(PIPELINE_BEST, "benchmarks.speed.drawing_peers:pipeline"),
    ],
    "processes": [
        Contestant("this project, 2 processes", f"{OURS}:training", processes=2),
        Contestant(ONE_PROCESS, f"{OURS}:training"),
        Contestant(
            "2 processes without overlap", "benchmarks.speed.parallel_peers:without_overlap", processes=2
        ),
        Contestant(
            "2 processes that share nothing, each its own training",
            f"{OURS}:training",
            variant=APART,
            processes=2,
        ),
    ],
}
"""By part; the first one is measured against the others."""
