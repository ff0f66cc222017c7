"""Compiling a network's repeated blocks, for training and for drawing."""

from torch import nn


def compile_blocks(network: nn.Module) -> None:
    """Compile the blocks that a diffusers network repeats, or all of it where it names none.

    Blocks of one shape are compiled once, which takes less than half the time of the whole; docs/performance.md has both
    speeds. In place, so the names of the weights stay as they are.
    """
    repeated = getattr(network, "_repeated_blocks", None) or ()
    if any(type(module).__name__ in repeated for module in network.modules()):
        network.compile_repeated_blocks()  # type: ignore[operator]
    else:
        network.compile()
