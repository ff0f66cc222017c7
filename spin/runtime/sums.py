"""The SHA-256 of every file in a finished folder: listed when the folder is made, compared when a file of it is read.

A folder in outputs/ or .spin/ holds `spin.sha256`, as `sha256sum -c spin.sha256` reads it: a line per file below it,
in the order of their names, and at the end a comment with the hash of the lines above. A folder inside that has a list
of its own stands there by its list alone. A folder without one, of before there were any, is read as it is.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from spin import paths
from spin.errors import DamagedError
from spin.runtime.remedies import remedy
from spin.runtime.seals import is_unbroken

SUMS = "spin.sha256"
_END = "# {}  of the lines above\n"


def is_output(path: Path) -> bool:
    """Whether a file or folder lies below outputs/."""
    return paths.OUTPUTS.name in Path(os.path.abspath(path)).parts


def is_listed(path: Path) -> bool:
    """Whether a file or folder is in a place whose folders have lists: below outputs/ or .spin/."""
    return is_output(path) or paths.WORK.name in Path(os.path.abspath(path)).parts


class SumsWriter:
    """Writes the list of a folder line by line."""

    def __init__(self, folder: Path) -> None:
        (folder / SUMS).unlink(missing_ok=True)  # it may be a second name of another folder's list
        self._stream = (folder / SUMS).open("w", encoding="utf-8", newline="\n")
        self._digest = hashlib.sha256()

    def add(self, name: str, sha256: str) -> None:
        """List a file by its path from the folder, in POSIX form."""
        line = f"{sha256}  {name}\n"
        self._digest.update(line.encode())
        self._stream.write(line)

    def close(self) -> None:
        """End the list."""
        self._stream.write(_END.format(self._digest.hexdigest()))
        self._stream.close()


def write_sums(folder: Path) -> None:
    """Write the list of a finished folder; the same files give the same list."""
    names = sorted(_names(folder))
    sums = SumsWriter(folder)
    for name in names:
        sums.add(name, sha256_file(folder / name))
    sums.close()


def _names(folder: Path) -> Iterator[str]:
    """Every file below the folder but its own list; of a folder inside with a list, that list."""
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            files = [file for file in files if file != SUMS]
        elif SUMS in files:
            files = [SUMS]
            folders.clear()
        yield from (Path(parent, file).relative_to(folder).as_posix() for file in files)


def checked(path: Path) -> Path:
    """Return `path` if it holds the bytes that were written, by the list of its folder or by its own seal.

    One with neither is taken as it is, one that is not there is left to the reader. A file is hashed once per process.
    Raises `DamagedError`.
    """
    if path.is_file():
        checked_digest(path)
    return path


def checked_digest(path: Path) -> str:
    """The SHA-256 of a file, compared as `checked` does."""
    digest, listed = file_digest(path), _listed(path)
    if listed is None and is_listed(path) and not is_unbroken(path):
        raise DamagedError(
            f"{path} must hold what was sealed for its place, but holds something else; {remedy(path)}."
        )
    if listed == "":
        raise DamagedError(f"{path} must be one of the files that {SUMS} lists, but is none; {remedy(path)}.")
    if listed is not None and listed != digest:
        raise _damaged(path, SUMS, listed, digest)
    return digest


def _damaged(path: Path, listing: str, listed: str, found: str) -> DamagedError:
    return DamagedError(
        f"{path} must hold the bytes that {listing} lists ({listed[:12]}), but holds others ({found[:12]}); {remedy(path)}."
    )


def check_folder(folder: Path) -> None:
    """Check every file that a folder's list names; raises `DamagedError` for the first that is damaged or missing."""
    if (folder / SUMS).is_file():
        check_files(folder / name for name in _read(folder))


def check_files(files: Iterable[Path]) -> None:
    """Check files of a list, and those that a list among them names; raises `DamagedError` also for one that is missing."""
    for file in files:
        if not file.is_file():
            raise DamagedError(f"{file} must be there as its {SUMS} lists it, but is not; {remedy(file)}.")
        checked(file)
        if file.name == SUMS:
            check_folder(file.parent)


def write_sum(listing: Path, file: Path) -> None:
    """Write a list of one file, which lies elsewhere: an output of its own that the same stage made."""
    name = Path(os.path.relpath(file, listing.parent)).as_posix()
    listing.write_text(f"{sha256_file(file)}  {name}\n", encoding="utf-8")


def check_sum(listing: Path, file: Path) -> None:
    """Check a file by the list that `write_sum` wrote, if both are there; raises `DamagedError`."""
    if not (listing.is_file() and file.is_file()):
        return
    listed, found = checked(listing).read_text(encoding="utf-8")[:64], file_digest(file)
    if listed != found:
        raise _damaged(file, listing.name, listed, found)


def is_whole(folder: Path) -> bool:
    """Whether a folder is there, and every file of its list undamaged."""
    try:
        check_folder(folder)
    except DamagedError:
        return False
    return folder.is_dir()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """As `sha256_file`, remembered while the process runs: hashing 4 GB takes seconds, and a stage reads them twice."""
    stat = path.stat()
    return _digest_at(os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=4096)
def _digest_at(path: str, *identity: int) -> str:
    """A file that was written again has another inode or time, and so another entry."""
    return sha256_file(Path(path))


def _listed(path: Path) -> str | None:
    """What the nearest list says of a file: its hash, or an empty text if it leaves it out; None without a list."""
    if not is_listed(path):
        return None
    own = path.name == SUMS  # the list of a folder stands in that of a folder above
    folder = path.parent.parent if own else path.parent
    while not (folder / SUMS).is_file():
        if folder.name in (paths.OUTPUTS.name, paths.WORK.name, ""):
            return None
        folder = folder.parent
    return _read(folder).get(path.relative_to(folder).as_posix(), "")


def _read(folder: Path) -> dict[str, str]:
    """{path from the folder: hash} of a folder's list, which is checked itself; raises `DamagedError`."""
    file = folder / SUMS
    stat = checked(file).stat()
    return _read_at(file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _read_at(file: Path, *identity: int) -> dict[str, str]:
    text = file.read_bytes().decode("utf-8", "replace")
    lines, mark, _ = text.rpartition("# ")
    if text != lines + _END.format(hashlib.sha256(lines.encode()).hexdigest()) or not mark:
        raise DamagedError(
            f"{file} must be a whole list of the files beside it, but is damaged; {remedy(file)}."
        )
    return {line[66:]: line[:64] for line in lines.split("\n") if line}
