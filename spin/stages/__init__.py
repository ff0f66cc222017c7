"""The stages of the pipeline, from files to files; dvc.yaml and tasks/ have them by the same names.

May import every room but `tools` and `cli`. Read first: `table` (STAGES, all of them), then `train`; `work` is where
unfinished work lies, `preflight` what is refused before any work.
"""
