"""What is made before the first iteration: data set, base, cache of latents, prompt sets."""

from tasks.stage import stage_task

prepare_data = stage_task("data")
find_base = stage_task("base")
find_released = stage_task("released")
cache_latents = stage_task("cache")
prepare_prompt_set = stage_task("prompt_set")
