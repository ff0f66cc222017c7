"""Reward models, and how folders of images are scored with them.

May import `toy`, `params`, `runtime` and what stands after them. Read first: `base` (what a scorer is), then `loading`
(a scorer by its name) and `scoring` (a folder of images); each other module is one published scorer or a part of it.
"""
