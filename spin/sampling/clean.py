"""The ceiling of the embedded world: perfect images, as the base's VAE can show them."""

from pathlib import Path

import pandas as pd
from PIL import Image

from spin.data.manifest import read_prompt_table
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.schema import Params
from spin.runtime.files import write_json
from spin.runtime.images import to_pixel_values
from spin.sampling.samples import protocol_of
from spin.toy.oracle import clean_image
from spin.toy.world import parse_caption


def write_clean_samples(out: Path, diffusion: LatentDiffusion, prompts: Path, params: Params) -> None:
    """Render each evaluation prompt cleanly and pass it through the VAE, into the existing empty folder `out`.

    The layout is that of a model's samples, with one image a prompt whatever the models draw: nothing is random in it.
    """
    evaluate = params.evaluate.model_copy(update={"images_per_prompt": 1})
    (out / "images").mkdir()
    rows = []
    for position, prompt in enumerate(read_prompt_table(prompts).to_dict("records")):
        clean = clean_image(parse_caption(str(prompt["prompt"])))
        mean, _ = diffusion.encode_images(to_pixel_values([clean]))
        image = Image.fromarray(diffusion.decode_latents(diffusion.scale(mean))[0].numpy())
        name = f"images/{position:05d}-0.png"
        image.save(out / name)
        rows.append({**prompt, "image_index": 0, "seed": evaluate.seed, "image": name})
    pd.DataFrame(rows).to_parquet(out / "manifest.parquet", index=False)
    write_json(out / "protocol.json", protocol_of(evaluate, prompts, params.resolution))
