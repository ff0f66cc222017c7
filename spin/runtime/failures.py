"""What a machine failed at, in words: the request was right, so no one is to blame but a full disk or a closed folder."""

_TORN = ("PytorchStreamWriter failed writing file", "unexpected pos")
"""What PyTorch's writer says where the bytes did not all go to disk; it does not say why."""


def failure_of(error: BaseException) -> str | None:
    """What the machine failed at, on one line; None for an error that is not the machine's."""
    failures = getattr(
        error, "failures", None
    )  # of torch.distributed.checkpoint, by rank: (error, its stack)
    if isinstance(failures, dict) and failures:
        inner = next(iter(failures.values()))
        return failure_of(inner[0]) if isinstance(inner, tuple) else None
    said = None
    if isinstance(error, OSError):
        several = error.args[0] if error.args else None  # of shutil, which goes on: (from, to, why) of each
        where = f"{error.filename}: " if error.filename else ""
        said = (
            several[0][-1] if isinstance(several, list) and several else f"{where}{error.strerror or error}"
        )
    elif type(error).__name__ == "SafetensorError" and "I/O error: " in str(error):
        said = str(error).partition("I/O error: ")[2]
    elif isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORN):
        said = "a file could not be written whole, as on a full disk"
    return None if said is None else " ".join(str(said).split())
