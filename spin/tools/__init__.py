"""Commands that are no stage of the pipeline, each with what it needs beside it.

May import every room but `stages` and `cli`. Read first: the `command` of the folder you are after; importing one must
stay cheap, since every call of `spin` does.
"""
