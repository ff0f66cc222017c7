"""Where models may come from, and what is refused: one sentence with the rule, the value and the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from spin import cli
from spin.errors import ModelError, ParamsError
from spin.models.checkpoint import (
    load_denoiser,
    load_model,
    reference_of,
    released_reference,
    save_checkpoint,
    weights_digest,
)
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams, UnetParams
from spin.params.schema import Params
from spin.runtime.files import read_json, sha256_file, sha256_tree, write_json
from spin.stages.data import run_base, run_data, run_prompt_set, run_released
from spin.stages.sample import run_generate
from spin.tools.export.ldm_names import unet_names
from spin.tools.export.single_file import single_file_tensors
from tests.models.tiny import miniature_params, write_params, write_tiny_base
from tests.models.tiny_families import write_tiny_sd2, write_tiny_sd3, write_tiny_sdxl

WEIGHTS = "diffusion_pytorch_model.safetensors"


def base_params(source: Path | str, **changes: Any) -> BaseParams:
    return BaseParams.model_validate(
        {"source": str(source), "revision": None, "config": None, "unet": None} | changes
    )


def record_base(folder: Path, base: BaseParams) -> Path:
    """A checkpoint folder of a base, as the stage writes it."""
    folder.mkdir(parents=True)
    write_json(folder / "model.json", reference_of(base))
    return folder


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "mine"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of the other families, and another one of the base's."""
    folder = tmp_path_factory.mktemp("others")
    write_tiny_base(folder / "sd", seed=1)
    write_tiny_sd2(folder / "sd2")
    write_tiny_sdxl(folder / "sdxl")
    write_tiny_sd3(folder / "sd3")
    return folder


@pytest.fixture(scope="module")
def single_files(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the others in one file each with the original names, in fp16 as such files often are."""
    folder = tmp_path_factory.mktemp("single")
    for name in ("sd", "sd2", "sdxl"):
        tensors = single_file_tensors(load_model(record_base(folder / name, base_params(others / name))))
        half = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
        save_file(half, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def single_file(single_files: Path) -> Path:
    """Of Stable Diffusion 1.x."""
    return single_files / "sd.safetensors"


def states(diffusion: LatentDiffusion) -> list[dict[str, torch.Tensor]]:
    return [network.state_dict() for network in diffusion.networks()]


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl"])
def test_a_single_file_is_the_model_it_was_made_of(
    others: Path, single_files: Path, tmp_path: Path, name: str
) -> None:
    file = single_files / f"{name}.safetensors"
    whole = load_model(single_files / name)
    checkpoint = record_base(tmp_path / "file", base_params(file, config=str(others / name)))
    loaded = load_model(checkpoint)
    for expected, given in zip(states(whole), states(loaded), strict=True):
        assert set(expected) == set(given)
        for key in expected:
            torch.testing.assert_close(given[key], expected[key], rtol=1e-3, atol=1e-3)
            assert given[key].dtype == torch.float32
    record = read_json(checkpoint / "model.json")
    assert record["config"] == str(others / name)
    assert record["weights"] == {"file": sha256_file(file)}
    assert weights_digest(checkpoint) == sha256_file(file)
    assert load_denoiser(checkpoint).state_dict().keys() == loaded.denoiser.state_dict().keys()


def test_reading_a_single_file_with_a_local_config_opens_no_connection(
    others: Path, single_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    checkpoint = record_base(tmp_path / "file", base_params(single_file, config=str(others / "sd")))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_model(checkpoint)


@pytest.mark.parametrize("at", ["", "unet"])
def test_a_denoiser_at_the_root_or_in_its_folder_is_laid_over_the_base(
    tiny_base: Path, others: Path, tmp_path: Path, at: str
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(others / "sd" / "unet", repository / at)
    unet = {"source": str(repository), "revision": None}
    checkpoint = record_base(tmp_path / "base", base_params(tiny_base, unet=unet))
    laid, own = load_model(checkpoint), load_model(record_base(tmp_path / "plain", base_params(tiny_base)))
    expected = load_file(others / "sd" / "unet" / WEIGHTS)
    assert all(torch.equal(laid.denoiser.state_dict()[name], expected[name]) for name in expected)
    assert torch.equal(
        laid.encode_prompts(["a red circle"])["encoder_hidden_states"],
        own.encode_prompts(["a red circle"])["encoder_hidden_states"],
    )
    record = read_json(checkpoint / "model.json")
    assert record["unet"] == unet
    assert (
        record["weights"]["unet"]
        == sha256_tree(repository / at, "*.safetensors")
        == weights_digest(checkpoint)
    )


def test_a_released_checkpoint_is_a_reference_and_is_evaluated_like_any_other(
    tiny_base: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(tiny_base)
    raw["released"] = {"spin_iter3": {"source": str(others / "sd"), "revision": None}}
    raw["evaluate"]["models"] = ["base", "spin_iter3", *raw["baselines"], *raw["iterations"]]
    params = Params.model_validate(raw)
    run_base(params)
    run_released(params, "spin_iter3")
    checkpoint = tmp_path / "outputs" / "checkpoints" / "spin_iter3"
    assert [path.name for path in checkpoint.iterdir()] == ["model.json"]
    expected = load_file(others / "sd" / "unet" / WEIGHTS)
    for network in (load_model(checkpoint).denoiser, load_denoiser(checkpoint)):
        assert all(torch.equal(network.state_dict()[name], expected[name]) for name in expected)
    assert weights_digest(checkpoint) == sha256_tree(others / "sd" / "unet", "*.safetensors")
    run_data(params)
    run_prompt_set(params, params.evaluate.main_prompt_set)
    run_generate(params, params.evaluate.main_prompt_set, "spin_iter3")
    with pytest.raises(ParamsError, match=r"--name must be one of spin_iter3, got iter1"):
        run_released(params, "iter1")


def test_a_base_that_changed_since_it_was_recorded_is_refused(base: Path, tmp_path: Path) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(base))
    load_model(checkpoint)
    weights = load_file(base / "vae" / WEIGHTS)
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, base / "vae" / WEIGHTS)
    with pytest.raises(ModelError, match=r"the vae of .*mine changed since; .*`dvc repro -f base`"):
        load_model(checkpoint)
    save_file(weights, base / "vae" / WEIGHTS)
    record_base(tmp_path / "again", base_params(base))
    load_model(tmp_path / "again")


def test_a_base_whose_prediction_type_changed_is_refused(base: Path, tmp_path: Path) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(base))
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(read_json(scheduler) | {"prediction_type": "v_prediction"}))
    with pytest.raises(ModelError, match=r"the scheduler of .*mine changed since"):
        load_denoiser(checkpoint)


def test_a_released_checkpoint_that_changed_is_refused(tiny_base: Path, others: Path, tmp_path: Path) -> None:
    recorded = record_base(tmp_path / "base", base_params(tiny_base))
    mine = tmp_path / "mine"
    shutil.copytree(others / "sd" / "unet", mine)
    (tmp_path / "dpo").mkdir()
    unet = UnetParams(source=str(mine), revision=None)
    write_json(tmp_path / "dpo" / "model.json", released_reference("dpo", unet, recorded))
    shutil.copy(tiny_base / "unet" / WEIGHTS, mine / WEIGHTS)
    with pytest.raises(
        ModelError, match=r"released\.dpo\.source .* changed; run `dvc repro -f released@dpo`"
    ):
        load_model(tmp_path / "dpo")


def swap(config: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / config).write_text(json.dumps(read_json(folder / config) | changes))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("model_index.json"), r"must be a model in diffusers layout, but it has no model_index\.json"),
        (
            swap("model_index.json", _class_name="FluxPipeline"),
            r"must be one of .*XL.*, got FluxPipeline; use such",
        ),
        (remove(f"unet/{WEIGHTS}"), r"must hold unet weights as safetensors, found none; convert"),
        (
            swap("scheduler/scheduler_config.json", prediction_type="sample"),
            r"epsilon or v_prediction, got sample",
        ),
        (
            swap("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
            r"got flow; use",
        ),
        (swap("unet/config.json", in_channels=9), r"the 4 channels of its VAE's latents, got a unet with 9"),
        (
            swap("vae/config.json", latents_mean=[0.0] * 4),
            r"scaling_factor alone, got a VAE with latents_mean",
        ),
        (
            remove("scheduler/scheduler_config.json"),
            r"but it has no scheduler/scheduler_config\.json; save it",
        ),
        (
            lambda folder: (folder / "unet" / "config.json").write_text("{"),
            r"config\.json as JSON, but it does not",
        ),
    ],
)
def test_a_base_that_is_not_one_model_is_refused(
    base: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(base)
    with pytest.raises(ModelError, match=message) as refusal:
        reference_of(base_params(base))
    assert "\n" not in str(refusal.value)


def test_a_flow_grid_that_depends_on_the_resolution_is_refused(others: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(others / "sd3", tmp_path / "mine"))
    swap("scheduler/scheduler_config.json", use_dynamic_shifting=True)(mine)
    with pytest.raises(
        ModelError, match="by a constant alone, got a scheduler with use_dynamic_shifting True"
    ):
        reference_of(base_params(mine))


@pytest.mark.parametrize("torn", [b"", b"torn", b"\xff" * 64])
def test_torn_weights_are_refused(base: Path, tmp_path: Path, torn: bytes) -> None:
    (base / "unet" / WEIGHTS).write_bytes(torn)
    checkpoint = record_base(tmp_path / "base", base_params(base))
    for load in (load_model, load_denoiser):
        with pytest.raises(ModelError, match=r"cannot be loaded \(.*\); make it again"):
            load(checkpoint)


def test_a_checkpoint_with_other_weights_than_recorded_is_refused(base: Path, tmp_path: Path) -> None:
    start = record_base(tmp_path / "base", base_params(base))
    (tmp_path / "iter1").mkdir()
    save_checkpoint(tmp_path / "iter1", "iter1", load_denoiser(start), start)
    load_model(tmp_path / "iter1")
    weights = load_file(tmp_path / "iter1" / "unet" / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "iter1" / "unet" / WEIGHTS)
    for load in (load_model, load_denoiser):
        with pytest.raises(ModelError, match=r"must hold the weights that model\.json records"):
            load(tmp_path / "iter1")


@pytest.mark.parametrize("single", [False, True])
def test_a_checkpoint_names_no_folder_of_this_machine(
    base: Path, others: Path, single_file: Path, tmp_path: Path, single: bool
) -> None:
    source = base_params(single_file, config=str(others / "sd")) if single else base_params(base)
    start = record_base(tmp_path / "start", source)
    (tmp_path / "iter1").mkdir()
    save_checkpoint(tmp_path / "iter1", "iter1", load_denoiser(start), start)
    config = (tmp_path / "iter1" / "unet" / "config.json").read_text()
    assert not any(str(folder) in config for folder in (base, others, single_file.parent))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdxl", r"has cross_attention_dim 16, got 40; use a checkpoint of the base's family"),
        ("sd3", r"found none in .*sd3; name a repository that has one"),
        (
            "sd2",
            r"must predict epsilon as the base does, got v_prediction; use a checkpoint that was trained",
        ),
    ],
)
def test_a_denoiser_of_another_family_or_prediction_type_is_refused(
    tiny_base: Path, others: Path, name: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        reference_of(base_params(tiny_base, unet={"source": str(others / name), "revision": None}))


def test_a_single_file_of_another_family_or_width_is_refused(
    others: Path, single_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"a whole stable-diffusion-xl model .*, got stable-diffusion; name a"
    ):
        reference_of(base_params(single_file, config=str(others / "sdxl")))
    wider = Path(shutil.copytree(others / "sd", tmp_path / "wider"))
    swap("unet/config.json", cross_attention_dim=24)(wider)
    with pytest.raises(ModelError, match=r"the cross_attention_dim 24 of base\.config .*, got 16"):
        reference_of(base_params(single_file, config=str(wider)))
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="got none of the known families"):
        reference_of(base_params(tmp_path / "other.safetensors", config=str(others / "sd")))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"must be safetensors, but it cannot be read"):
        reference_of(base_params(tmp_path / "torn.safetensors", config=str(others / "sd")))


def test_a_single_file_with_missing_weights_is_refused(
    others: Path, single_file: Path, tmp_path: Path
) -> None:
    weights = load_file(single_file)
    for part in ("model.diffusion_model.out.2.", "cond_stage_model.transformer.text_model.final_layer_norm."):
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(part)}
        path = tmp_path / f"{len(part)}.safetensors"
        save_file(kept, path)
        checkpoint = record_base(
            tmp_path / f"checkpoint{len(part)}", base_params(path, config=str(others / "sd"))
        )
        with pytest.raises(ModelError) as refusal:
            load_model(checkpoint)
        assert "\n" not in str(refusal.value)


def test_revisions_belong_to_the_hub(tiny_base: Path, others: Path) -> None:
    with pytest.raises(ModelError, match=r"base\.revision must be null for a folder or file, got main"):
        reference_of(base_params(tiny_base, revision="main"))
    unet = {"source": str(others / "sd"), "revision": "main"}
    with pytest.raises(ModelError, match=r"base\.unet\.revision must be null for a folder or file, got main"):
        reference_of(base_params(tiny_base, unet=unet))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "model.ckpt"}, r"source must be safetensors, got a \.ckpt file, which can run code"),
        (
            {"source": "model.safetensors"},
            r"config must name a model in diffusers layout for the single file",
        ),
        ({"source": "owner/name", "config": "owner/name"}, r"config must be null unless source is a single"),
        ({"source": "embedded", "revision": "main"}, r"revision must be null with source embedded, got main"),
    ],
)
def test_sources_that_cannot_be_are_refused_by_the_schema(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        base_params(**({"source": "embedded"} | changes))


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("base.source", {"source": "nobody/nothing"}),
        ("base.unet.source", {"unet": {"source": "nobody/nothing", "revision": None}}),
    ],
)
def test_a_hub_id_that_is_not_to_be_had_is_one_sentence(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, key: str, changes: dict[str, Any]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=rf"{key} must be .* nobody/nothing is neither here") as refusal:
        reference_of(base_params(**({"source": tiny_base} | changes)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "but there is no folder"),
        ("nowhere.safetensors", "base.config must name a model"),
        ("nobody/nothing", "nobody/nothing is neither here nor to be had"),
    ],
)
def test_the_command_line_says_so_in_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    message: str,
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(Path("unused"))
    raw["base"]["source"] = source
    write_params(tmp_path, raw)
    assert cli.main(["base"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("spin: ")
    assert message in line
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]


UNETS: dict[str, tuple[dict[str, Any], int, int]] = {
    "sd15": ({"cross_attention_dim": 768, "attention_head_dim": 8}, 686, 859_520_964),
    "sd21": (
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        686,
        865_910_724,
    ),
    "sdxl": (
        {
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        1680,
        2_567_463_684,
    ),
}
"""Published configs where they differ from diffusers' defaults, number of tensors, number of parameters."""


@pytest.mark.parametrize("name", UNETS)
def test_the_published_single_file_names_are_those_of_the_real_unet(name: str) -> None:
    """diffusers' own conversion of the original names gives each tensor of the real UNet once, in its shape."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, tensors, parameters = UNETS[name]
    with init_empty_weights():
        unet = UNet2DConditionModel(**config)
    own = unet.state_dict()
    assert len(own) == tensors
    assert sum(tensor.numel() for tensor in own.values()) == parameters
    names = unet_names(own, unet.config)
    original = {names[key]: tensor for key, tensor in own.items()}
    assert len(original) == tensors
    for known in ("input_blocks.0.0.weight", "time_embed.2.bias", "middle_block.2.out_layers.3.weight"):
        assert f"model.diffusion_model.{known}" in original
    converted = convert_ldm_unet_checkpoint(dict(original), unet.config)
    assert {key: tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in own.items()
    }
    missing, unexpected = unet.load_state_dict(converted, strict=True, assign=True)
    assert (missing, unexpected) == ([], [])
