"""Drawing images: an iteration's opponents, and each model's images for the evaluation."""

from tasks.stage import stage_task

draw_opponents = stage_task("opponents")
generate_images = stage_task("generate")
