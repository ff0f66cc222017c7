"""What `spin init` says it found."""

from pathlib import Path

from spin.data.folder import caption_file, images_below, repeats_in
from spin.errors import DataError
from spin.params.schema import Params
from spin.runtime.launch import has_gpus
from spin.tools.init.enough import warnings
from spin.tools.init.survey import Survey

NAMED = 10
"""Dropped files that are named on the terminal; the file beside the parameters has all."""


def told(survey: Survey, params: Params, listed: Path | None) -> list[str]:
    """Lines on what the source is, what is dropped, what is held out, and what to think of."""
    data, card = survey.data, survey.card
    looked = "" if survey.look.complete else " (of its first rows; the others were not read)"
    lines = [
        f"{card.source}: a {data.kind} with captions in {survey.kind}",
        f"{card.sentence()}{looked}",
    ]
    lines.append(
        "images are cropped to squares; data.aspect_buckets keeps portraits and landscapes whole (docs/data.md)"
        if data.aspect_buckets is None
        else "images are cropped to the nearest of several shapes, as data.aspect_buckets says"
    )
    if survey.look.undecoded:
        lines.append(f"{survey.look.undecoded} of the kept ones were not decoded")
    if survey.unlisted:
        folder = Path(card.source)
        beside = sum(caption_file(folder / name).is_file() for name in survey.unlisted)
        unread = f", and the caption files of {beside} of them are not read beside it" if beside else ""
        lines.append(
            f"{len(survey.unlisted)} images have no caption: {survey.kind} does not list them{unread}"
        )
    if listed is not None:
        names = [*(f"{name} ({why.removeprefix('that ')})" for name, why in card.names), *survey.unlisted]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"not used: {', '.join(names[:NAMED])}{more}; {listed} has all")
    if getattr(data, "repeats", False):
        lines.append("folders are numbered as kohya's: 10_NAME is shown ten times an epoch (data.repeats)")
    elif data.kind == "folder" and (why := misnumbered(Path(data.path))):
        lines.append(f"folders are not read as kohya's (data.repeats is false): {why}")
    if not data.num_test:
        lines.append(
            "with so few captions none is held out: evaluation draws what was trained on, and says nothing of other prompts"
        )
    half = {params.training.precision, params.opponents.precision, params.evaluate.precision} - {"fp32"}
    if half and not has_gpus():
        lines.append(
            f"this machine has no GPU, and a CPU is many times slower in {' and '.join(sorted(half))}: to run here, set "
            "the precision of training, opponents and evaluate to fp32"
        )
    own = data.num_test and any(
        params.prompt_sets[name].prompts == "test" for name in params.evaluate.prompt_sets
    )
    return [*lines, *warnings(card, survey.look, params.resolution, data.num_test if own else None)]


def misnumbered(folder: Path) -> str | None:
    """Which folder has a number out of range, of one laid out as kohya's scripts want it but for that; else None."""
    found = None
    for image in images_below(folder):
        try:
            if repeats_in(str(image)) is None:
                return None
        except DataError as error:
            found = found or str(error).partition(";")[0]
    return found
