"""What each stage's code means, before all other stages."""

from tasks.stage import stage_task

hash_code = stage_task("code")
