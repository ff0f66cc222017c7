"""Progress of a file or folder that a library writes in one call: its growing size, looked at once a second."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from spin.runtime.progress import Progress

SECONDS_BETWEEN_LOOKS = 1.0
MEGABYTE = 1_000_000


@contextmanager
def watching(place: Path, label: str, networks: Sequence[nn.Module]) -> Iterator[None]:
    """Report how much of the networks' weights has come to be at `place` while the block runs."""
    states = [tensor for network in networks for tensor in network.state_dict().values()]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in states)
    finished = threading.Event()
    total = max(round(num_bytes / MEGABYTE), 1)
    with Progress(label, total, "MB") as progress:

        def look() -> None:
            while not finished.wait(SECONDS_BETWEEN_LOOKS):
                written = min(_size(place) // MEGABYTE, total - 1)
                if written > progress.done:
                    progress.update(written - progress.done)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
        progress.update(total - progress.done)


def _size(place: Path) -> int:
    try:
        return (
            place.stat().st_size
            if place.is_file()
            else sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        )
    except OSError:  # a file that the library renamed between being listed and being measured
        return 0
