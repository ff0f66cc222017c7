"""One training stage: the player learns against its frozen past self.

May import `sampling`, `data`, `models` and what stands after them. Read first: `loop` (all updates on one screen), then
`steps` (one micro-batch) and `batches` (what it is made of); `setup` puts it together from parameters and files.
"""
