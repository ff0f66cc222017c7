"""`spin init --base`: a single file finds its configuration, by name or by its keys, and what cannot be a base is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spin.cli import main
from spin.models.checkpoint import load_model
from spin.params.schema import load_params
from spin.stages import preflight
from spin.stages.data import run_base
from spin.tools.export.single_file import single_file_tensors
from tests.data.images import jpeg
from tests.models.bases import WEIGHTS, base_params, record_base

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["init", "--images", "photos", "--profile", "toy", "--base"]
ATTENTION = "model.diffusion_model.input_blocks.{}.transformer_blocks.0.attn2.to_k.weight"
TEXT, XL_TEXT = "cond_stage_model.a", "conditioner.embedders.0.a"


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


def single_file(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """A file with these tensors and nothing else of a model."""
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, name)
    return name


def test_a_single_file_with_its_configuration_becomes_parameters_whose_base_is_found(
    inside: Path, tiny_base: Path
) -> None:
    model = load_model(record_base(inside / "recorded", base_params(tiny_base)))
    tensors = {key: tensor.half().contiguous() for key, tensor in single_file_tensors(model).items()}
    save_file(tensors, "mine.safetensors")
    assert main([*COMMAND, "mine.safetensors", "--config", str(tiny_base)]) == 0
    params = load_params()
    assert (params.base.source, params.base.config) == ("mine.safetensors", str(tiny_base))
    preflight.check(params)
    run_base(params)
    assert Path("outputs/checkpoints/base/model.json").is_file()


@pytest.mark.parametrize(
    ("shapes", "config"),
    [
        (
            {TEXT: (1,), ATTENTION.format("1.1"): (320, 768)},
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        (
            {
                TEXT: (1,),
                ATTENTION.format("1.1"): (320, 1024),
                "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            },
            "stabilityai/stable-diffusion-2-1",
        ),
        (
            {
                XL_TEXT: (1,),
                ATTENTION.format("4.1"): (640, 2048),
                "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
            },
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ],
)
def test_the_keys_of_a_single_file_tell_its_configuration(
    shapes: dict[str, tuple[int, ...]], config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, single_file("found.safetensors", shapes)]) == 0
    assert load_params().base.config == config
    assert f"by its keys its configuration is that of {config}" in capsys.readouterr().out


def test_a_folder_whose_weights_are_torn_is_refused_where_it_is_found(
    tiny_base: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_base, "mine")
    assert main([*COMMAND, "mine"]) == 0
    torn = Path("mine/vae") / WEIGHTS
    whole = torn.read_bytes()
    for damaged in (whole[:1000], whole[:-1], whole + b"0", b"", b"\xff" * 16):
        torn.write_bytes(damaged)
        capsys.readouterr()
        assert main([*COMMAND, "mine", "--force"]) == 2
        assert main(["base"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert (
            said
            == [
                f"spin: {torn} must be whole safetensors, but its size is not what its beginning says; "
                "fetch or copy it again."
            ]
            * 2
        )
    assert not Path("outputs/checkpoints").exists()
    torn.write_bytes(whole)
    (torn.parent / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    assert main([*COMMAND, "mine", "--force"]) == 0


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (["gone.safetensors"], "there is no file gone.safetensors; correct the path"),
        (["other.safetensors"], "are not those of one; name the folder or hub id whose configuration it has"),
        (["narrow.safetensors"], "are not those of one; name the folder or hub id whose configuration"),
        (["torn.safetensors"], "torn.safetensors must be whole safetensors, but its size is not what"),
        (["torn.safetensors", "--config", "embedded"], "torn.safetensors must be whole safetensors"),
        (["torn.safetensors", "--config", "owner/model"], "torn.safetensors must be whole safetensors"),
        (["gone.safetensors", "--config", "owner/model"], "there is no file gone.safetensors"),
        (["narrow.safetensors", "--config", "embedded"], "must have the cross_attention_dim"),
        (
            ["photos/00.jpg"],
            "--base must be 'embedded', a folder in diffusers layout, a .safetensors file or",
        ),
        (
            ["narrow.safetensors", "--config", "photos/00.jpg"],
            "--config must be a folder in diffusers layout",
        ),
        (["narrow.safetensors", "--config", "nowhere"], "--config must be a folder in diffusers layout or a"),
        (["narrow.safetensors", "--config", "photos"], "photos must be a model in diffusers layout, but it"),
        (["embedded", "--config", "photos"], "--config must go with a --base that is one .safetensors"),
        (["nowhere"], "--base must be 'embedded', a folder in diffusers layout"),
        (["photos"], "photos must be a model in diffusers layout, but it has no model_index.json"),
        (["owner/model.ckpt"], "params.yaml was not written, since base.source must be safetensors, got a"),
    ],
)
def test_what_cannot_be_a_base_is_one_sentence_and_nothing_is_written(
    base: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    single_file("other.safetensors", {"some.weight": (1,)})
    single_file("narrow.safetensors", {TEXT: (1,), ATTENTION.format("1.1"): (32, 16)})
    Path("torn.safetensors").write_bytes(b"torn")
    assert main([*COMMAND, *base]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path().glob("params*"))
