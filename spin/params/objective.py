"""What a self-play iteration minimizes."""

from typing import Literal

from pydantic import model_validator

from spin.params.section import Fraction, Section


class ObjectiveParams(Section):
    """The loss of the self-play iterations; the paper's choices are approximate, logistic, constant, previous.

    All others but `shared_noise` are *experimental* (see `spin.params.experimental`).
    """

    kind: Literal["approximate", "exact"]
    """`approximate` draws one timestep per pair. `exact` sums over a whole trajectory of as many DDIM steps (eta 1, no
    guidance) as the opponents are sampled with, which it draws anew at every visit: 10 forwards per pair and step
    against 8 per pair. Refused for flow matching, and above 1e6 TFLOP an iteration unless the environment variable
    SPIN_EXACT_TFLOP allows more."""
    function: Literal["logistic", "hinge", "squared", "exponential", "correlation"]
    """The convex decreasing function l of the margin; spin/method/functions.py compares them."""
    timestep_weighting: Literal["constant", "exact"]
    """`exact` weights timestep t by h_t^2 / (2 s_t^2), scaled to a mean of one, so that beta keeps its size. On SD's
    schedule that is 77 at t = 1 and about 0.5 to 1 from t = 100 on. Must be exact with `kind: exact`."""
    shared_noise: bool
    """Whether the two members of a pair share timestep and noise, as the peers' do, or draw their own."""
    loser_scale: Fraction | None
    """SDPO's mu (arXiv:2511.03317): scales the gradient from opponents so that the error on real images does not
    rise to first order; null leaves it alone. It is taken over each micro-batch, as SDPO's own is: with it
    training.micro_batch_size and the number of devices are part of the method."""
    reference: Literal["previous", "random"]
    """`random` is SePPO's (arXiv:2410.05255): at each update one of all earlier iterates, and its sign rule."""

    @model_validator(mode="after")
    def _exact_is_the_papers_alone(self) -> "ObjectiveParams":
        if self.kind == "approximate":
            return self
        rules = {"timestep_weighting": "exact", "loser_scale": None, "reference": "previous"}
        for name, wanted in rules.items():
            if getattr(self, name) != wanted:
                shown = "null" if wanted is None else wanted
                raise ValueError(
                    f"{name} must be {shown} with kind exact, got {getattr(self, name)}; change one"
                )
        return self
