"""The scorers that come with the project, by name; light to import, unlike the scorers."""

from pathlib import Path

ENTRY_POINT_GROUP = "spin.scorers"
"""A user's own scorer: an entry point names a callable (source: str | None, device: str, dtype) -> Scorer."""
BUILT_IN = ("pickscore", "hps", "hps_v21", "image_reward", "aesthetic", "aesthetic_v1", "clip")
WITHOUT_PROMPTS = ("aesthetic", "aesthetic_v1")
"""They look at the image alone."""
ORACLES = ("oracle_psnr", "oracle_attributes")
DIVERSITY = "diversity"
"""Column beside the scores: how far apart a model's images of one prompt are. Of a prompt, and no score."""
EMBEDDED = Path(__file__).parents[1] / "toy" / "assets" / "scorers"
"""Where the embedded ones' weights lie, a folder each."""
