"""The method as equations: tensors in, tensors out; no files, no loops over data, no models.

May import `seeding` and `errors`. Read first: `losses` (the loss from four denoising errors), then `schedule` (noising
and its weights); `functions` is the l of a margin, `guards` what keeps both errors from rising, `transitions` and
`exact` the objective over whole trajectories.
"""
