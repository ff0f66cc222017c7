"""What MLflow is told; the only room that knows it.

May import `params`, `runtime` and what stands after them. Read first: `runs` (a parent run per configuration, a run per
stage), then `stage_log` (what each stage tells) and `registry` (a version per iteration).
"""
