"""Images drawn from a model: the opponents of an iteration, and the samples for evaluation.

May import `data`, `models` and what stands after them. Read first: `sampler` (one image from one random stream), then
`opponents`; `samples` are the evaluation's, `clean` its ceiling in the embedded world, `safety` what is not trained on.
"""
