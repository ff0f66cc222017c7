"""A registered model as MLflow loads it: `mlflow.pyfunc.load_model("models:/NAME@champion").predict(["a prompt"])`.

MLflow calls `_load_pyfunc` with the files that `spin.tracking.thin_model` saved. No code comes with a model.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spin.params.schema import load_params
from spin.runtime.files import read_json
from spin.tools.pulled import bring
from spin.tools.sample import Drawer
from spin.tracking.thin_model import POINTER


class ServedModel:
    """Draws prompts with a checkpoint that DVC has brought."""

    def __init__(self, folder: Path) -> None:
        """Bring the checkpoint that `folder` points at and load it; raises `ModelError` if it cannot be had."""
        pointer, configuration = read_json(folder / POINTER), folder / "config"
        configured = configuration if configuration.is_file() else None
        self.checkpoint = bring(pointer["path"], pointer["md5"], configured)
        self.params = load_params(folder / "params.yaml")
        self._drawer = Drawer(self.checkpoint, self.params)

    def predict(self, prompts: Any, params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Draw one image of each prompt: uint8 of shape (prompts, height, width, 3), values 0 to 255.

        `prompts` is a list of texts, or a table whose first column has them. `params` may have `seed`, and
        `num_inference_steps` and `guidance_scale` where they are not to be those of `evaluate` in the model's parameters.
        """
        given = dict(params or {})
        seed = int(given.pop("seed", 0))
        chosen = {
            key: value for key, value in given.items() if value is not None and value >= 0 and key in CHOSEN
        }
        chosen = {key: value for key, value in chosen.items() if key != "num_inference_steps" or value > 0}
        sampler = self.params.evaluate.model_copy(update=chosen)
        texts = prompts.iloc[:, 0].tolist() if hasattr(prompts, "iloc") else list(np.asarray(prompts).ravel())
        return np.stack([self._drawer.draw(str(text), 0, seed, sampler) for text in texts])


CHOSEN = ("num_inference_steps", "guidance_scale")


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow calls."""
    return ServedModel(Path(path))
