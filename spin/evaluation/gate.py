"""The gate of the registry: whether a challenger may take the place of the champion, and the numbers that say so."""

from pathlib import Path
from typing import Any, NamedTuple

from spin.evaluation.champion import ALIGNMENT, FEWEST, MOST_LOST, enough
from spin.evaluation.intervals import Interval, mean_intervals, winning_intervals
from spin.evaluation.measures import outcomes_of
from spin.evaluation.resampling import cluster_codes, resample
from spin.evaluation.results import load_results
from spin.evaluation.statistics import deviation
from spin.params.schema import Params

CHALLENGER, CHAMPION = "challenger", "champion"


class Decision(NamedTuple):
    """What the gate found."""

    promoted: bool
    win_rate: float
    """Average winning rate of the challenger over the champion, in [0, 1]."""
    interval: Interval
    alignment: float
    """Difference of the mean alignment scores, in standard deviations of the champion's; nan without that scorer."""
    alignment_interval: Interval
    prompts: int

    def sentence(self, challenger: str, champion: str) -> str:
        """Say what was decided and why."""
        low, high = (100 * bound for bound in self.interval)
        found = f"{challenger} wins {100 * self.win_rate:.1f}% over {champion} [{low:.1f}, {high:.1f}], {self.prompts} prompts"
        if self.promoted:
            return f"{found}: it is the champion now."
        if not enough(self.prompts):
            return f"{found}: fewer than {FEWEST} decide nothing; {champion} stays."
        if self.interval.low <= 0.5:
            return f"{found}: the interval is not above one half; {champion} stays."
        lost = -self.alignment
        return f"{found}, but it lost {lost:.2f} standard deviations of alignment (at most {MOST_LOST}); {champion} stays."

    def tags(self, over: str) -> dict[str, str]:
        """The numbers as a version of the registry shows them."""
        return {
            "gate.over": over,
            "gate.promoted": str(self.promoted).lower(),
            "gate.win_rate": f"{self.win_rate:.4f}",
            "gate.interval": f"[{self.interval.low:.4f}, {self.interval.high:.4f}]",
            "gate.alignment": f"{self.alignment:+.3f}",
            "gate.alignment_interval": f"[{self.alignment_interval.low:+.3f}, {self.alignment_interval.high:+.3f}]",
            "gate.prompts": str(self.prompts),
        }


def decide(params: Params, scores: Path) -> Decision:
    """Compare the scores in `scores`/challenger with those in `scores`/champion, prompt by prompt.

    Promoted is what wins with its whole interval above one half, on prompts enough to decide, without having lost more
    alignment than `spin.evaluation.champion` allows. Raises `EvaluationError` if the two were not measured alike.
    """
    evaluate = params.evaluate.model_copy(update={"models": [CHALLENGER, CHAMPION], "references": []})
    results = load_results(params.model_copy(update={"evaluate": evaluate}), scores)
    clusters, confidence = cluster_codes(results.clusters), params.tables.confidence
    won = outcomes_of(results, CHALLENGER, CHAMPION, params.tables.average_of)[:, -1:]
    (interval,) = winning_intervals(won, clusters, confidence)

    # What became of alignment, in the spread of the champion's own scores.
    apart, between = float("nan"), Interval(float("nan"), float("nan"))
    if ALIGNMENT in results.scorers:
        column = results.scorers.index(ALIGNMENT)
        theirs = results.of(CHAMPION)[:, column]
        spread = float(deviation(theirs, axis=0)) or 1.0
        differences = (results.of(CHALLENGER)[:, column] - theirs)[:, None] / spread
        resampled = resample(clusters, params.tables.bootstrap_samples, params.evaluate.seed)
        apart, between = float(differences.mean()), mean_intervals(differences, resampled, confidence)[0]
    kept = not between.high < -MOST_LOST
    promoted = enough(len(won)) and interval.low > 0.5 and kept
    return Decision(promoted, float(won.mean()), interval, apart, between, len(won))


def describe(entry: dict[str, Any]) -> str:
    """A model of registry.json by its name and the first digits of its hash."""
    return f"{entry['model']} ({entry['md5'][:8]})"
