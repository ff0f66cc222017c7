"""What fails through no fault of the request, such as a full disk, is one sentence and exit code 1."""

import shutil
import subprocess
import sys

import pytest
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from spin.cli import main

FULL = "No space left on device"
OF_TORCH = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534\nat frame #0")
NOT_WHOLE = "a file could not be written whole, as on a full disk"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, FULL, "out/a"), f"out/a: {FULL}"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),  # of something else than the output
        (
            SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)"),
            f"{FULL} (os error 28)",
        ),
        (
            RuntimeError("[enforce fail at x.cc:1] . PytorchStreamWriter failed writing file data/0"),
            NOT_WHOLE,
        ),
        (OF_TORCH, NOT_WHOLE),
        (CheckpointException("a long stack\nof lines", {0: (OF_TORCH, [])}), NOT_WHOLE),  # type: ignore[dict-item]
        (
            shutil.Error([("a", "out/a", f"[Errno 28] {FULL}: 'out/a'"), ("b", "out/b", "the same")]),
            f"[Errno 28] {FULL}: 'out/a'",
        ),
        (shutil.Error("Destination path 'out/a' already exists"), "Destination path 'out/a' already exists"),
    ],
)
def test_a_full_disk_is_one_sentence_whoever_meets_it(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("spin.prompts.sets.load_prompt_set", load)
    assert main(["prompts", "any"]) == 1
    assert capsys.readouterr().err == f"spin: {said}; mend it and run the same command again.\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SafetensorError("header too short"), SystemExit(3)])
def test_what_is_no_failure_of_the_machine_is_not_taken_for_one(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("spin.prompts.sets.load_prompt_set", load)
    with pytest.raises(type(error)):
        main(["prompts", "any"])


def test_a_reader_that_has_enough_ends_a_command_without_a_word() -> None:
    talks = "import argparse, spin.cli as cli; cli._parser = lambda: argparse.Namespace(parse_args=lambda _: "
    talks += "argparse.Namespace(run=lambda _: print('x' * 10**6))); raise SystemExit(cli.main([]))"
    command = [sys.executable, "-c", talks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
