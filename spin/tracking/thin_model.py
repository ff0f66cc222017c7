"""A model in MLflow's format without its weights: what is needed to bring them through DVC and draw with them."""

import shutil
import warnings
from pathlib import Path
from typing import Any

from spin.runtime.files import write_json

LOADER = "spin.tools.served"
"""The module whose `_load_pyfunc` MLflow calls with the folder of these files."""
POINTER = "checkpoint.json"
REQUIREMENTS = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "dvc", "pillow")


def save_thin_model(folder: Path, entry: dict[str, Any], files: list[Path]) -> None:
    """Write an MLflow model whose data is the checkpoint's name, path and hash, and `files` beside them."""
    from importlib.metadata import version

    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    data = folder.parent / "data"
    data.mkdir()
    write_json(data / POINTER, {key: entry[key] for key in ("model", "path", "md5")})
    for file in files:
        shutil.copy(file, data / file.name)
    warnings.filterwarnings("ignore", ".*An input example was not provided")  # it would load the weights
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=LOADER,
        data_path=str(data),
        pip_requirements=[f"{each}=={version(each)}" for each in REQUIREMENTS],
        signature=ModelSignature(
            inputs=Schema([ColSpec("string")]),
            params=ParamSchema(
                [
                    ParamSpec("seed", "long", 0),
                    ParamSpec("num_inference_steps", "long", 0),
                    ParamSpec("guidance_scale", "double", -1.0),
                ]
            ),
        ),
    )
