"""Training: self-play iterations and the baselines they are compared with; a retry resumes."""

from tasks.stage import stage_task

train_iteration = stage_task("train")
train_baseline = stage_task("baseline")
