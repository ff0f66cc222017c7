"""`spin init --quick`: every stage on one's own images and base, and what the full run finds again."""

from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from spin.cli import main
from spin.params.schema import Params, load_params
from spin.stages import preflight
from tests.data.images import jpeg
from tests.stages.test_paper import run_all

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the checkout's profiles and a folder of captioned images."""
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for index in range(20):
        Path(f"photos/{index:02d}.jpg").write_bytes(jpeg(index))
        Path(f"photos/{index:02d}.txt").write_text(f"caption {index}")
    return tmp_path


def init(profile: str, *options: str) -> Params:
    """The parameters that `spin init` writes."""
    assert main(["init", "--images", "photos", "--profile", profile, "--force", *options]) == 0
    return load_params()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_quick_run_has_the_models_and_scorers_of_the_full_one_and_little_to_do(profile: str) -> None:
    enlarge = ["--small-images", "enlarge"]
    full, quick = init(profile, *enlarge), init(profile, *enlarge, "--quick")
    assert quick.base == full.base
    assert quick.data == full.data
    assert quick.evaluate.models == full.evaluate.models
    assert quick.scorers == full.scorers
    assert quick.resolution == {32: 32, 512: 256, 1024: 512}[full.resolution]
    assert all(quick.stage(name).num_steps == 2 for name in (*quick.iterations, *quick.baselines))
    assert quick.training.batch_size <= 4
    assert quick.evaluate.num_inference_steps <= 4
    assert {each.prompts for each in quick.prompt_sets.values()} == {"val"}
    assert quick.tracking.registered_model != full.tracking.registered_model


@pytest.mark.parametrize("gpus", [False, True])
def test_a_quick_run_is_in_half_precision_only_where_that_is_fast(
    gpus: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("quick", "told"):
        monkeypatch.setattr(f"spin.tools.init.{module}.has_gpus", lambda: gpus)
    enlarge = ["--small-images", "enlarge"]
    full = init("sd15-lora", *enlarge)
    slow = "this machine has no GPU, and a CPU is many times slower in bf16 and fp16"
    assert (slow in capsys.readouterr().out) is not gpus
    quick = init("sd15-lora", *enlarge, "--quick")
    assert "many times slower" not in capsys.readouterr().out
    for section in ("training", "opponents", "evaluate"):
        of_full = getattr(full, section).precision
        assert of_full != "fp32"
        assert getattr(quick, section).precision == (of_full if gpus else "fp32")


def test_data_of_the_same_resolution_are_those_of_the_full_run() -> None:
    same = ["--resolution", "32"]
    quick, full = (
        init("sd15-lora", *same, "--quick").model_dump(),
        init("sd15-lora", *same).model_dump(),
    )
    data_and_base = ("seed", "resolution", "data", "base")  # what dvc.yaml has these stages depend on
    assert {key: quick[key] for key in data_and_base} == {key: full[key] for key in data_and_base}
    assert quick["training"]["horizontal_flip"] == full["training"]["horizontal_flip"], "and the cache"


def test_a_large_source_that_can_be_read_in_part_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("spin.tools.init.quick.ROWS", 32)
    rows = [{"image": jpeg(index), "text": f"caption {index}"} for index in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
    assert main(["init", "--images", "rows.parquet", "--profile", "toy", "--quick"]) == 0
    data = load_params().data.model_dump()
    assert (data["max_rows"], data["num_val"], data["num_test"]) == (32, 2, 2)


@pytest.mark.slow
def test_a_quick_run_goes_through_every_stage(tiny_base: Path) -> None:
    init("sd15-lora", "--base", str(tiny_base), "--resolution", "32", "--quick")
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["scorers"] = {name: {"source": "embedded"} for name in raw["scorers"]}
    raw["training"]["precision"] = raw["opponents"]["precision"] = raw["evaluate"]["precision"] = "fp32"
    params = Params.model_validate(raw)
    preflight.check(params)
    AcceleratorState._reset_state()  # accelerate's precision is per process, and other tests have another
    try:
        run_all(params)
    finally:
        AcceleratorState._reset_state()
    assert Path("outputs/report/report.html").is_file()
    assert Path("outputs/tables/test/summary.json").is_file()
