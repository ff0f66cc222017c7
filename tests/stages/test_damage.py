"""A damaged file of a finished stage is found by whatever reads it, in one sentence that names it and what mends it."""

import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
import pytest

import spin.data.cache
from spin.cli import main
from spin.data.cache import Cache
from spin.errors import SpinError
from spin.runtime.remedies import command_for
from spin.runtime.sums import SUMS
from spin.tools.arena.matches import samples_digest
from spin.tools.arena.votes import Votes
from tests.stages.projects import finish

SAMPLE = ["sample", "a red circle", "--count", "1", "--out", "drawn"]
ARENA = [
    "arena",
    "--samples",
    "outputs/samples/test",
    "--scores",
    "outputs/scores/test",
    "--models",
    "iter1,base",
]
ARENA += ["--votes", "votes.sqlite", "--results"]
SCORE = ["score", "--images", "outputs/samples/test/iter1", "--scorers", "oracle_psnr", "--source", "toy"]
SCORE += ["--out", "scores.parquet"]


def export(name: str, kind: str) -> list[str]:
    return ["export", "--checkpoint", f"outputs/checkpoints/{name}", "--format", kind, "--out", "exported"]


READ_ALL = ["every row of the cache"]
"""Training reads the shards as their rows come up."""
READERS: dict[str, list[list[str]]] = {
    "data/prompts/test.parquet": [["prompt-set", "--name", "test"], ["cache"]],
    "data/*": [["cache"]],
    "checkpoints/base/*": [["cache"], ["generate", "--name", "base"], ["reference", "--name", "clean"]],
    "checkpoints/iter1/curve.sha256": [["report"]],
    "checkpoints/sft/curve.sha256": [["report"]],
    "checkpoints/iter1/*": [
        ["generate", "--name", "iter1"],
        export("iter1", "unet"),
        [*SAMPLE, "--model", "iter1"],
    ],
    "checkpoints/sft/*": [["generate", "--name", "sft"], export("sft", "lora"), [*SAMPLE, "--model", "sft"]],
    "cache/*/shard-*": [READ_ALL],
    "cache/*": [["train", "--name", "iter1"]],
    "opponents/*": [["train", "--name", "iter1"]],
    "prompts/*": [["generate", "--name", "base"], ["reference", "--name", "clean"]],
    "samples/test/iter1/[im]*[!n]": [["score", "--name", "iter1"], ["report"], ARENA, SCORE],
    "samples/test/iter1/*": [["score", "--name", "iter1"], ["report"], ARENA],
    "samples/test/base/*": [["score", "--name", "base"], ["report"], ARENA],
    "samples/test/*": [["report"]],
    "scores/test/iter1/scores.parquet": [["tables"], ARENA],
    "scores/*": [["tables"]],
    "curves/*": [["report"]],
    "tables/*": [["report"]],
    "registry/*": [SAMPLE],
}
"""Place in outputs/ -> the commands that read it; the first that fits counts."""
NOT_READ = [
    "data/card.json",
    "opponents/*/preview.png",
    "opponents/*/images.parquet",
    "metrics/*",
    "report/*",
    "training/*",
]
"""For people, for MLflow and for DVC."""


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project; its cache has shards of 4 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.data.cache, "SHARD_SIZE", 4)
        folder = finish(tmp_path_factory.mktemp("damage"), tiny_base)
        patch.chdir(folder)
        digests = {model: samples_digest(Path("outputs/samples/test") / model) for model in ("iter1", "base")}
        Votes(Path("votes.sqlite"), digests).close()
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spin.data.cache, "SHARD_SIZE", 4)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    monkeypatch.chdir(project)
    return project


def emptied(file: Path) -> bytes:
    return b""


def cut_short(file: Path) -> bytes:
    return file.read_bytes()[: file.stat().st_size // 2]


def flipped(file: Path) -> bytes:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def swapped(file: Path) -> bytes | None:
    """The bytes of another file of the same kind, nearest first; None if there is none with other bytes."""
    for folder in file.parents[:-1]:
        for other in sorted(folder.rglob(f"*{file.suffix}")):
            if other.is_file() and other.read_bytes() != file.read_bytes():
                return other.read_bytes()
    return None


def files_below(place: str) -> list[Path]:
    """The files below outputs/`place`; of many of one kind in a folder, the first and the last."""
    kinds: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(Path("outputs", place).rglob("*")):
        if file.is_file():
            name = file.name if file.suffix != ".png" else file.suffix
            kinds.setdefault((file.parent, name), []).append(file)
    return [file for alike in kinds.values() for file in dict.fromkeys((alike[0], alike[-1]))]


def readers_of(file: Path) -> list[list[str]]:
    name = file.relative_to("outputs").as_posix()
    if any(fnmatch(name, pattern) for pattern in NOT_READ):
        return []
    return next(readers for pattern, readers in READERS.items() if fnmatch(name, pattern))


def state() -> dict[str, tuple[int, int]]:
    """Every file and folder of the project, but for what votes leave."""
    found = [path for path in Path().rglob("*") if not path.name.startswith("votes.sqlite")]
    return {
        path.as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()
    } | {path.as_posix(): (0, 0) for path in found if path.is_dir()}


PLACES = [
    "data",
    "checkpoints",
    "cache",
    "opponents",
    "prompts",
    "samples",
    "scores",
    "curves",
    "tables",
    "registry",
]


def test_every_output_has_its_readers(inside: Path) -> None:
    made = {path.name for path in Path("outputs").iterdir()}
    assert made - set(PLACES) <= {"cost", "metrics", "report", "training"}
    assert all(readers_of(file) for place in PLACES for file in files_below(place) if not_for_people(file))


def not_for_people(file: Path) -> bool:
    return not any(fnmatch(file.relative_to("outputs").as_posix(), pattern) for pattern in NOT_READ)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("damage", [emptied, cut_short, flipped, swapped])
def test_a_damaged_file_is_refused_by_name_with_the_command_that_makes_it_again(
    inside: Path, place: str, damage: Callable[[Path], bytes | None], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for file in files_below(place):
        whole, damaged = file.read_bytes(), damage(file)
        if damaged is None:
            continue
        file.write_bytes(damaged)
        before = state()
        for reader in readers_of(file):
            code, said = run(reader), capsys.readouterr().err.strip().splitlines()
            sentence = [line for line in said if line.startswith("spin: ")]
            command = f"`python -m spin {command_for(inside, file)}` makes it again."
            if code != 2 or len(sentence) != 1 or not names(sentence[0], file) or command not in sentence[0]:
                wrong.append(f"{file} by {' '.join(reader)}: {code} {said[-1:]}")
            if state() != before:
                wrong.append(f"{file} by {' '.join(reader)} leaves {dict(state().items() ^ before.items())}")
        file.write_bytes(whole)
    assert not wrong, "\n".join(wrong)


def run(reader: list[str]) -> int:
    """The exit code of a command of `spin`, or of reading all rows of the cache."""
    if reader != READ_ALL:
        return main(reader)
    try:
        cache = Cache(Path("outputs/cache"))
        cache.posteriors(pd.read_parquet("outputs/cache/images.parquet")["image"])
        cache.text(pd.read_parquet("outputs/cache/captions.parquet")["caption"])
    except SpinError as error:
        print(f"spin: {error}", file=sys.stderr)
        return 2
    return 0


def names(sentence: str, file: Path) -> bool:
    """Whether the sentence begins with the file. A list in the place of another one speaks of the files beside it."""
    place = file.parent if file.name == SUMS else file
    return sentence.startswith((f"spin: {file} must ", f"spin: {place}/"))
