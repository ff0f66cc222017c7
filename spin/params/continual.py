"""Going on inside an iteration against moving to the next one."""

from spin.params.section import PositiveInt, Section


class ContinualParams(Section):
    """A comparison after a finished iteration (figure 5 of Yuan et al. 2024): more of its game, or the next one's.

    Both go on from the same weights with the next iteration's rate, beta and number of updates, and the same data
    order and noise; they differ in the reference and the opponents' images alone.
    """

    finished: str
    """The iteration whose end is the start."""
    next: str
    """The iteration after it."""
    every: PositiveInt
    """Updates between two points of the curve; must divide the next iteration's num_steps."""
    prompts: str
    """The prompt set to draw and score at each point; the paper takes the validation set."""
