"""The study of going on inside an iteration against moving to the next one."""

from tasks.stage import stage_task

compare_continual = stage_task("continual")
