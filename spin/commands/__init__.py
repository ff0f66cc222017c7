"""Commands that are no stage of the pipeline; `spin.cli` registers them."""
