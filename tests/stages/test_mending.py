"""What the sentence about a damaged file says to type mends it: in the outputs and in DVC's cache."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spin.cli import main
from tests.models.tiny import copy_project, miniature_params

pytest.importorskip("dvc")

READERS = {
    "outputs/cache/latents/shard-00000/posteriors.safetensors": ["train", "--name", "sft"],
    "outputs/checkpoints/base/model.json": ["generate", "--name", "base"],
    "outputs/prompts/test.parquet": ["generate", "--name", "base"],
    "outputs/samples/test/base/images/00001-0.png": ["score", "--name", "base"],
}
"""Damaged file -> a command that reads it."""
STATUS = "dvc status cache base prompt_set@test generate@test-base"


def shell(command: str) -> str:
    """Run a command line as a person would, with the environment's programs."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", command], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages ran through DVC up to the base's images; its files are links into DVC's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    raw = miniature_params(tiny_base)
    raw["scorers"] = {"oracle_psnr": raw["scorers"]["oracle_psnr"]}
    raw["tables"] |= {"average_of": ["oracle_psnr"]}
    copy_project(tmp_path, raw)
    shell("dvc init --no-scm -q && dvc config cache.type hardlink")
    for stage in (
        ["code"],
        ["data"],
        ["base"],
        ["cache"],
        ["prompt-set", "--name", "test"],
        ["generate", "--name", "base"],
    ):
        assert main(stage) == 0
    shell("dvc commit -q -f code data base cache prompt_set@test generate@test-base")
    return tmp_path


def rot(file: Path) -> None:
    """Flip a bit as a failing disk does: neither the time nor the rights of the file change."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.chmod(0o644)
    with file.open("r+b") as stream:  # in place: other names of the file hold the same
        stream.write(content)
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def damaged_in_the_cache() -> list[str]:
    """Objects of DVC's cache that are not what their names say."""
    objects = [path for path in Path(".dvc/cache/files/md5").glob("*/*") if path.is_file()]
    names = {path: path.parent.name + path.name.removesuffix(".dir") for path in objects}
    return [str(path) for path, name in names.items() if hashlib.md5(path.read_bytes()).hexdigest() != name]


def commands_for(file: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Damage a file, and return the commands that its reader's sentence names."""
    rot(file)
    assert "up to date" in shell(STATUS), "DVC does not see it"
    assert main(READERS[str(file)]) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith(f"spin: {file} must ")
    return re.findall(r"`([^`]+)`", sentence)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_that_the_sentence_names_mends_the_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {name: Path(name).read_bytes() for name in READERS}
    shard, model, prompts, image = READERS

    # Linked into DVC's cache: the bad bytes must leave it as well.
    for name in (shard, prompts):
        (command,) = commands_for(Path(name), capsys)
        assert re.fullmatch(
            rf'find -L "\$\(dvc cache dir\)" -samefile {name} -delete; dvc repro -f -s \S+', command
        )
        assert len(damaged_in_the_cache()) == 1
        shell(command)
        assert (Path(name).read_bytes(), damaged_in_the_cache()) == (whole[name], [])

    # Copied: DVC's copy is brought back, or the stage runs again.
    outputs = "outputs/cache outputs/checkpoints/base outputs/samples/test/base"
    shell(f"dvc config cache.type copy && dvc checkout -q --relink {outputs}")
    for name, which in ((shard, 0), (model, 1), (image, 0)):
        commands = commands_for(Path(name), capsys)
        assert commands[0] == f"rm -f {name} && dvc checkout {name}"
        assert commands[1].startswith("dvc repro -f -s ")
        shell(commands[which])
        assert (Path(name).read_bytes(), damaged_in_the_cache()) == (whole[name], [])
    assert "up to date" in shell(STATUS)
    assert main(["generate", "--name", "base"]) == 0
