"""A word where the embedded scorers judge what they never saw."""

import logging
from collections.abc import Mapping

from spin.rewards.names import ORACLES

logger = logging.getLogger(__name__)


def warn_of_embedded(sources: Mapping[str, str | None]) -> None:
    """Say of the scorers, name -> source, which are embedded; for images that are not of the embedded world."""
    named = [name for name, source in sources.items() if source == "embedded" and name not in ORACLES]
    if named:
        logger.warning(
            "the embedded %s learned from 32x32 scenes of coloured shapes alone: the scores of other images, such as "
            "photographs, say nothing; take the published weights (source hub) or a folder with them.",
            ", ".join(named),
        )
