"""Files that are never half-written, shards, progress, devices, images, the code's meaning: no word of the method.

May import `seeding`, `errors` and `paths`. Read first: `files`, then `shards`.
"""
