"""People as judges: two images of one prompt and seed, side by side and unnamed; votes in SQLite.

`matches` says what can be shown, `votes` keeps what was said, `standings` counts it, `app` is the web page.
"""
