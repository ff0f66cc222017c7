"""Properties of exports: what other tools read back is the checkpoint, to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spin import cli
from spin.errors import ModelError
from spin.models.checkpoint import load_model, reference_of, save_checkpoint
from spin.models.conditioning import square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams, UnetParams
from spin.params.sampling import SamplerParams
from spin.runtime.files import read_json, replacing_dir, sha256_tree, write_json
from spin.runtime.provenance import content_md5
from spin.sampling.sampler import Guidance, sample_latents
from spin.seeding import generator_for
from spin.tools.export.formats import export_checkpoint
from spin.tools.export.ldm_names import CLIP
from spin.tools.export.single_file import clip_tensors, unet_tensors, vae_tensors
from spin.training.networks import load_networks
from tests.models.test_lora import LORA, move, predict
from tests.models.tiny_families import WRITERS

CPU = torch.device("cpu")
PROMPT = "a red circle left of a blue square on white"


def base_params(source: Path, config: Path | None = None, unet: Path | None = None) -> BaseParams:
    return BaseParams(
        source=str(source),
        revision=None,
        config=None if config is None else str(config),
        unet=None if unet is None else UnetParams(source=str(unet), revision=None),
    )


def write_base(folder: Path, given: BaseParams) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "model.json", reference_of(given))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; whole, trained whole from it; iter1 and iter2, trained with LoRA."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_base(folder / "base", base_params(tiny_base))
    for name, prev, lora in (("whole", "base", None), ("iter1", "base", LORA), ("iter2", "iter1", LORA)):
        player = load_networks(folder / prev, CPU, lora).player
        move(player, 0.02 if lora is None else 0.1)
        with replacing_dir(folder / name) as out:
            save_checkpoint(out, name, player, folder / prev)
    return folder


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def our_latents(diffusion: LatentDiffusion) -> Tensor:
    params = SamplerParams(
        scheduler="ddim", num_inference_steps=4, guidance_scale=3.0, eta=0.0, precision="fp32", batch_size=1
    )
    return sample_latents(
        diffusion,
        Guidance(diffusion.encode_prompts([PROMPT]), diffusion.encode_prompts([""]), square_geometry(1, 32)),
        [generator_for("image", 0)],
        params,
        32,
    )


def their_latents(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((4, 8, 8), generator=generator_for("image", 0))[None]
    drawn: Tensor = pipeline(
        PROMPT,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="latent",
        height=32,
        width=32,
    ).images
    return drawn


@pytest.mark.parametrize("name", ["base", "whole", "iter2"])
def test_the_exported_pipeline_draws_what_we_draw(checkpoints: Path, tmp_path: Path, name: str) -> None:
    from diffusers import DiffusionPipeline

    export_checkpoint(checkpoints / name, "pipeline", tmp_path / "out", "fp32", force=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    ours = load_model(checkpoints / name)
    for part in ("vae", "text_encoder"):
        assert same(getattr(pipeline, part), getattr(ours, part))
    assert same(pipeline.unet, ours.denoiser)
    torch.testing.assert_close(our_latents(ours), their_latents(pipeline), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(WRITERS))
def test_every_family_exports_a_pipeline_that_is_a_base_again(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path / "model")
    base = write_base(tmp_path / "base", base_params(tmp_path / "model"))
    player = load_networks(base, CPU, LORA).player
    move(player)
    with replacing_dir(tmp_path / "iter1") as out:
        save_checkpoint(out, "iter1", player, base)
    export_checkpoint(tmp_path / "iter1", "pipeline", tmp_path / "exported", "fp32", force=False)
    export_checkpoint(tmp_path / "iter1", "unet", tmp_path / "denoiser", "fp32", force=False)
    ours = load_model(tmp_path / "iter1")
    again = load_model(write_base(tmp_path / "again", base_params(tmp_path / "exported")))
    assert type(ours) is type(again)
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))
    assert ours.prediction_type == again.prediction_type
    over = base_params(tmp_path / "model", unet=tmp_path / "denoiser")
    assert same(load_model(write_base(tmp_path / "over", over)).denoiser, ours.denoiser)


@pytest.mark.parametrize("name", ["whole", "iter1"])
def test_the_exported_denoiser_is_laid_over_the_base(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, name: str
) -> None:
    from diffusers import UNet2DConditionModel

    export_checkpoint(checkpoints / name, "unet", tmp_path / "out", "fp32", force=False)
    ours = load_model(checkpoints / name).denoiser
    assert same(UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet"), ours)
    over = write_base(tmp_path / "base", base_params(tiny_base, unet=tmp_path / "out"))
    assert same(load_model(over).denoiser, ours)


def test_diffusers_reads_the_exported_lora_back(checkpoints: Path, tiny_base: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    export_checkpoint(checkpoints / "iter2", "lora", tmp_path / "out", "fp32", force=False)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "out")
    torch.testing.assert_close(
        their_latents(pipeline), our_latents(load_model(checkpoints / "iter2")), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ["base", "whole", "iter2"])
def test_the_single_file_reads_back_to_the_bit(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, name: str
) -> None:
    from diffusers import StableDiffusionPipeline

    out = tmp_path / "model.safetensors"
    export_checkpoint(checkpoints / name, "single-file", out, "fp32", force=False)
    ours = load_model(checkpoints / name)
    theirs = StableDiffusionPipeline.from_single_file(
        str(out), config=str(tiny_base), local_files_only=True, safety_checker=None
    )
    for part, network in (("unet", ours.denoiser), ("vae", ours.vae), ("text_encoder", ours.text_encoder)):
        assert same(getattr(theirs, part), network), part
    again = load_model(write_base(tmp_path / "base", base_params(out, config=tiny_base)))
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_single_file_of_a_relative_reads_back_to_the_bit(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path / "model")
    base = write_base(tmp_path / "base", base_params(tmp_path / "model"))
    out = tmp_path / "model.safetensors"
    export_checkpoint(base, "single-file", out, "fp32", force=False)
    ours = load_model(base)
    again = load_model(write_base(tmp_path / "again", base_params(out, config=tmp_path / "model")))
    assert type(ours) is type(again)
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))


def real_networks(family: str) -> dict[str, Any]:
    """UNet and VAE of Stable Diffusion 1.5 or XL, and SD 1.5's text encoder, without memory for their weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    if family == "sdxl":
        unet = {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                sample_size=512,
            ),
        }
        if family == "sd15":
            text = CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
            networks["text_encoder"] = CLIPTextModel(text)
    return networks


@pytest.mark.parametrize(("family", "num_unet_tensors"), [("sd15", 686), ("sdxl", 1680)])
def test_the_names_at_real_size_are_those_that_diffusers_expects(family: str, num_unet_tensors: int) -> None:
    from diffusers.loaders import single_file_utils as theirs

    networks = real_networks(family)
    renamed: dict[str, Callable[..., dict[str, Tensor]]] = {
        "unet": unet_tensors,
        "vae": vae_tensors,
        "text_encoder": lambda state, _: clip_tensors(state, CLIP),
    }
    single: dict[str, Tensor] = {}
    origin: dict[float, str] = {}
    for part, network in networks.items():
        marked = {}
        for name, tensor in network.state_dict().items():
            mark = float(len(origin))  # a stand-in of one element, which tells where it came from
            origin[mark] = f"{part}.{name}"
            marked[name] = torch.full((1,) * tensor.ndim, mark)
        made = renamed[part](marked, network.config)
        assert len(made) == len(marked)
        assert not made.keys() & single.keys()
        single |= made
    assert len(networks["unet"].state_dict()) == num_unet_tensors
    # diffusers reads an upsampler behind an attention from either place; the original has it in the third
    places = {"sd15": ("2.1", "5.2", "8.2"), "sdxl": ("2.2", "5.2")}[family]
    upsamplers = {name for name in single if ".output_blocks." in name and name.endswith(".conv.weight")}
    assert upsamplers == {f"model.diffusion_model.output_blocks.{place}.conv.weight" for place in places}
    if family == "sd15":
        assert theirs.infer_diffusers_model_type(single) == "v1"
        assert theirs.is_clip_model(single)
    read = {
        "unet": theirs.convert_ldm_unet_checkpoint(single, dict(networks["unet"].config)),
        "vae": theirs.convert_ldm_vae_checkpoint(single, dict(networks["vae"].config)),
        "text_encoder": {
            name.removeprefix("text_model."): tensor
            for name, tensor in theirs.convert_ldm_clip_checkpoint(single).items()
        },
    }
    for part, network in networks.items():
        state = network.state_dict()
        assert read[part].keys() == state.keys()
        for name, tensor in read[part].items():
            assert origin[tensor.item()] == f"{part}.{name}"
            assert tensor.ndim == state[name].ndim


def test_half_precision_rounds_the_fused_weights_once(checkpoints: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    export_checkpoint(checkpoints / "iter2", "pipeline", tmp_path / "out", "fp16", force=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float16)
    ours = load_model(checkpoints / "iter2")
    for theirs, network in (
        (pipeline.unet, ours.denoiser),
        (pipeline.vae, ours.vae),
        (pipeline.text_encoder, ours.text_encoder),
    ):
        assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float16}
        assert same(theirs, network.half())


def test_weights_that_overflow_in_half_precision_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    player = load_networks(checkpoints / "base", CPU).player
    with torch.no_grad():
        next(player.parameters()).fill_(1e6)
    with replacing_dir(tmp_path / "large") as out:
        save_checkpoint(out, "large", player, checkpoints / "base")
    with pytest.raises(ModelError, match=r"must be finite numbers, .* use --dtype bf16"):
        export_checkpoint(tmp_path / "large", "unet", tmp_path / "out", "fp16", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]


@pytest.mark.parametrize("format_name", ["pipeline", "unet", "lora", "single-file"])
def test_the_card_tells_base_lineage_and_how_to_load(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = format_name == "single-file"
    place = tmp_path / ("model.safetensors" if single else "model")
    made = {
        "outs": [{"md5": content_md5(checkpoints / "iter2")}],
        "params": {"params.yaml": {"beta": 2000.0}},
    }
    other = {"outs": [{"md5": "0"}], "params": {"params.yaml": {"beta": 1.0}}}
    write_json(tmp_path / "dvc.lock", {"stages": {"train@iter1": other, "train@iter2": made}})
    export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=False, root=tmp_path)
    text = (tmp_path / "model.md" if single else place / "README.md").read_text()
    assert str(tiny_base) in text
    digests = {
        name: read_json(checkpoints / name / "model.json")["unet_sha256"] for name in ("iter1", "iter2")
    }
    assert f"base -> iter1 ({digests['iter1'][:12]}) -> iter2 ({digests['iter2'][:12]})" in text
    assert '"beta": 2000.0' in text
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    with torch.no_grad():
        torch.testing.assert_close(
            predict(loaded["pipeline"].unet),
            predict(load_model(checkpoints / "iter2").denoiser),
            rtol=1e-3,
            atol=1e-4,
        )


def test_an_export_is_replaced_only_when_forced_and_nothing_else_ever(
    checkpoints: Path, tmp_path: Path
) -> None:
    for format_name, name in (("unet", "model"), ("single-file", "model.safetensors")):
        place = tmp_path / name
        export_checkpoint(checkpoints / "iter1", format_name, place, "fp32", force=False)
        before = sha256_tree(tmp_path)
        with pytest.raises(ModelError, match="name another place or give --force"):
            export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=False)
        assert sha256_tree(tmp_path) == before
        export_checkpoint(checkpoints / "iter2", format_name, place, "fp32", force=True)
        assert sha256_tree(tmp_path) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "mine.safetensors").write_bytes(b"weights of another tool")
    for format_name, name in (("pipeline", "mine"), ("single-file", "mine.safetensors")):
        with pytest.raises(ModelError, match="is neither; name another place"):
            export_checkpoint(checkpoints / "iter1", format_name, tmp_path / name, "fp32", force=True)
    (tmp_path / "notes.md").write_text("mine too")
    with pytest.raises(ModelError, match=r"must leave .*notes\.md for the model card"):
        export_checkpoint(
            checkpoints / "iter1", "single-file", tmp_path / "notes.safetensors", "fp32", force=True
        )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert not list(tmp_path.glob(".*")), "nothing half-written"


def test_what_cannot_be_exported_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--format lora needs a checkpoint trained with training\.lora"):
        export_checkpoint(checkpoints / "whole", "lora", tmp_path / "out", "fp32", force=False)
    with pytest.raises(ModelError, match=r"must end in \.safetensors"):
        export_checkpoint(checkpoints / "whole", "single-file", tmp_path / "out", "fp32", force=False)
    with pytest.raises(ModelError, match="must be a folder"):
        export_checkpoint(checkpoints / "whole", "unet", tmp_path / "out.safetensors", "fp32", force=False)
    assert not list(tmp_path.iterdir())


def test_the_single_file_of_another_family_is_refused(tmp_path: Path) -> None:
    WRITERS["sd3"](tmp_path / "model")
    base = write_base(tmp_path / "base", base_params(tmp_path / "model"))
    with pytest.raises(
        ModelError, match=r"is for Stable Diffusion 1\.x, 2\.x and XL, got stable-diffusion-3"
    ):
        export_checkpoint(base, "single-file", tmp_path / "out.safetensors", "fp32", force=False)
    assert not list(tmp_path.glob("*out*"))


def test_the_command_says_where_the_export_is_and_bad_input_ends_with_exit_code_2(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path) -> int:
        checkpoint = str(checkpoints / "iter1")
        return cli.main(["export", "--checkpoint", checkpoint, "--format", "lora", "--out", str(out)])

    assert run(tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} holds ")
    assert run(tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
