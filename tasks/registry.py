"""The model registry: a version per iteration, which points at the checkpoint that DVC keeps."""

from tasks.stage import stage_task

register_models = stage_task("register")
