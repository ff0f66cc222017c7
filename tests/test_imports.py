"""Help and a refusal are there at once: what is heavy is imported by what needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "pandas",
    "matplotlib",
    "prefect",
    "mlflow",
    "dvc",
}
TELL = "import sys; from {module} import main; code = main({arguments!r}); print(sorted(sys.modules)); sys.exit(code)"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("spin.cli", ["train", "--name", "iter1"]),
        ("spin.cli", ["code"]),
        ("spin.cli", ["plan", "--images", "0"]),
        ("flows.console", []),
    ],
)
def test_a_refused_parameter_file_imports_nothing_heavy(
    tmp_path: Path, module: str, arguments: list[str]
) -> None:
    (tmp_path / "params.yaml").write_text("seed: x\n")
    command = [sys.executable, "-c", TELL.format(module=module, arguments=arguments)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not HEAVY & set(eval(done.stdout))


def test_help_imports_nothing_heavy() -> None:
    tell = "import sys\nfrom spin.cli import main\ntry:\n    main(['--help'])\nfinally:\n    print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(eval(done.stdout.strip().splitlines()[-1]))
