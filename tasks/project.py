"""The DVC project as the tasks see it: its graph, and which stages have nothing to do.

One `Repo` serves a whole flow (opening one takes a second, a question to it 10 ms). It is not thread-safe, so every
question takes a lock.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import networkx as nx

from tasks.locks import mend_torn_list

T = TypeVar("T")

BUSY_PATIENCE = 600.0
"""Seconds to wait for another DVC process (a `dvc status` in another shell, say) to release its locks."""


class TornProjectError(Exception):
    """dvc.yaml or dvc.lock does not read; the message is one sentence with the way out."""


class Project:
    """A folder with a dvc.yaml."""

    def __init__(
        self, root: Path, timeout: float | None = None, pull: bool = False, push: bool = False
    ) -> None:
        """Name the folder. `timeout` is the most seconds that one stage may run.

        With `pull` a stage looks for its result on DVC's remote before it runs; with `push` what it made goes there.
        """
        self.root = root.resolve()
        self.timeout = timeout
        self.pull, self.push = pull, push
        self._lock = threading.Lock()
        self._known: Any = None
        self._commands = 0

    @cached_property
    def _repo(self) -> Any:
        from dvc.repo import Repo  # late: a worker that only lists flows does not need it

        return Repo(str(self.root))

    def _index(self) -> Any:
        """Return DVC's index, read again if `forget` was called. DVC writes no file of it while its lock is held."""
        from dvc.repo import lock_repo

        if self._known is None:
            with lock_repo(self._repo):
                self._known = self._repo.index
                _ = self._known.graph  # loads the stages and dvc.lock, here under the lock
        return self._known

    def forget(self) -> None:
        """Read dvc.yaml and dvc.lock again before the next question: a stage has been run."""
        with self._lock:
            self._known = None

    def graph(self) -> "nx.DiGraph[str]":
        """Return the stages by name, with an edge from each stage to every stage it waits for.

        Raises `TornProjectError` where dvc.yaml or dvc.lock does not read.
        """
        from dvc.utils.serialize import ParseError
        from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

        try:
            return self._ask(
                lambda index: nx.relabel_nodes(index.graph, {stage: stage.name for stage in index.stages})
            )
        except (ParseError, YAMLSyntaxError, YAMLValidationError) as error:
            file = "dvc.lock" if "dvc.lock" in str(error) else "dvc.yaml"
            remedy = "`git checkout dvc.lock` brings back the recorded one; without it, remove the file: what is unchanged "
            remedy += "comes back from DVC's run cache"
            raise TornProjectError(
                f"{file} must read as DVC wrote it, but does not ({str(error).splitlines()[0]}); "
                f"{remedy if file == 'dvc.lock' else 'correct it'}."
            ) from None

    def remote(self) -> str | None:
        """Return the name of DVC's default remote, if there is one."""
        name = self._repo.config["core"].get("remote")
        return None if name is None else str(name)

    def cache(self) -> str:
        """Return where DVC keeps what the stages made."""
        return str(self._repo.cache.legacy.path)

    def entries_read(self) -> set[str]:
        """Return the files and folders of the root that stages depend on, what they make left out."""
        return self._ask(lambda index: self._entries(index.deps)) - self.entries_made()

    def entries_made(self) -> set[str]:
        """Return the files and folders of the root that hold what stages make."""
        return self._ask(lambda index: self._entries(index.outs))

    def _entries(self, files: Iterable[Any]) -> set[str]:
        """Return the first part of each path below the root."""
        inside = (Path(each.fs_path) for each in files if each.is_in_repo)
        return {path.relative_to(self.root).parts[0] for path in inside}

    def is_stale(self, stage: str) -> bool:
        """Tell whether `dvc repro --single-item` would run `stage`; files are looked at anew each time."""
        return self._ask(lambda index: bool(_named(index, stage).changed()))

    def command_of(self, stage: str) -> str:
        """Return the command that `stage` runs."""
        return self._ask(lambda index: str(_named(index, stage).cmd))

    @contextmanager
    def command(self) -> Iterator[None]:
        """Hold while a DVC command of this flow is under way: it may keep DVC's lock as long as it pulls or pushes."""
        with self._lock:
            self._commands += 1
        try:
            yield
        finally:
            with self._lock:
                self._commands -= 1

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Put a question to DVC's index, with patience while another process holds DVC's locks."""
        from dvc.lock import LockError
        from dvc.rwlock import RWLockFileCorruptedError

        deadline = time.monotonic() + BUSY_PATIENCE
        pause = 0.05
        while True:
            try:
                with self._lock:
                    index = self._index()
                    with self._repo.lock:
                        return question(index)
            except LockError:
                if time.monotonic() > deadline and not self._commands:
                    raise
            except RWLockFileCorruptedError:
                if time.monotonic() > deadline:
                    raise
                mend_torn_list(self.root)
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _named(index: Any, stage: str) -> Any:
    """Return DVC's stage of that name."""
    return next(known for known in index.stages if known.name == stage)


_open: dict[Path, Project] = {}


def open_project(root: Path, timeout: float | None = None, pull: bool = False, push: bool = False) -> Project:
    """Open the project at `root` for a flow: its tasks, given the same folder, then share one `Repo`."""
    project = Project(root, timeout, pull, push)
    _open[project.root] = project
    return project


def project_at(root: Path) -> Project:
    """Return the project that the flow opened, or open it."""
    return _open.get(root.resolve()) or open_project(root)
