"""Scoring: every reward model on the images of one model or level."""

from tasks.stage import stage_task

score_images = stage_task("score")
score_reference = stage_task("reference")
