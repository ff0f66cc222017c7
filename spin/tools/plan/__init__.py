"""What a run will cost, before anyone spends money: counted from the parameters, with FLOPs read off the real layers.

Read first: `estimate` (the arithmetic); `counts` finds out what it needs, `published` has configurations and GPUs.
"""
