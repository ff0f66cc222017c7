"""diffusers' own pipeline, as anyone calls it."""

import io
from typing import Any

from PIL import Image

from benchmarks.speed.peers import base_folder
from benchmarks.speed.subjects import Turns
from spin import paths
from spin.data.manifest import read_manifest
from spin.params.schema import Params
from spin.runtime.devices import DTYPES, process_state
from spin.runtime.meter import Ask, asked, count
from spin.sampling.sampler import make_sampler
from spin.seeding import generator_for
from spin.training.memory import is_out_of_memory


def pipeline(params: Params, turns: Turns, variant: str) -> None:
    """diffusers' pipeline on the captions of the workspace, each image encoded as PNG, so many a call as an order says."""
    from diffusers import DiffusionPipeline

    device, chosen = process_state().device, params.opponents
    pipe: Any = DiffusionPipeline.from_pretrained(
        base_folder(params), torch_dtype=DTYPES[chosen.precision], safety_checker=None
    ).to(device)
    pipe.scheduler = make_sampler(dict(pipe.scheduler.config), chosen)
    pipe.set_progress_bar_config(disable=True)
    captions = [
        str(caption) for frame in read_manifest(paths.DATA).batches("caption") for caption in frame["caption"]
    ]
    guided = 2 if chosen.guidance_scale > 1.0 else 1
    side = params.resolution // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    tokens = pipe.tokenizer.model_max_length
    while (order := turns.wait()) is not None:
        try:
            for start in (
                start for _ in range(order.amount) for start in range(0, len(captions), order.size)
            ):
                part = captions[start : start + order.size]
                images = pipe(
                    part,
                    num_inference_steps=chosen.num_inference_steps,
                    guidance_scale=chosen.guidance_scale,
                    height=params.resolution,
                    width=params.resolution,
                    generator=[generator_for("pipeline", start, row) for row in range(len(part))],
                ).images
                for image in images:
                    _png(image)
                asked[Ask("denoiser", side, tokens)] += len(part) * guided * chosen.num_inference_steps
                count(len(part), "decoder", side)
                count(len(part) * guided, "text")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            turns.fail()
            continue
        turns.finish(order.amount * len(captions))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
