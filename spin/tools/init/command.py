"""`spin init`: from a folder of images to a params.yaml that runs."""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spin.errors import ParamsError
from spin.params.buckets import AspectBuckets
from spin.params.data import ImageData
from spin.params.schema import Params, load_params
from spin.params.section import MAX_RESOLUTION
from spin.runtime.files import replacing_file
from spin.tools.init.base import ChosenBase, choose_base
from spin.tools.init.profile import for_own_images, is_a_profile, profile_path, with_section, with_value
from spin.tools.init.quick import quick_resolution, quickly
from spin.tools.init.schedule import for_images

if TYPE_CHECKING:
    from spin.tools.init.survey import Survey

SMALL_IMAGES = {"drop": "drop", "enlarge": "upscale"}
"""What --small-images says, and how params.yaml has it."""
NEXT = "next: `python -m spin plan` says what it takes; `python -m flows` runs every stage"
NEXT_QUICK = (
    "next: `python -m flows`; then this command without --quick and with --force for the full run, which keeps code and base, "
    "and where --resolution is the same the data and its cache"
)


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    command = commands.add_parser("init", help="Write a params.yaml that runs for your own images.")
    command.add_argument(
        "--images",
        "--data",
        required=True,
        metavar="SOURCE",
        help="a folder of captioned images, parquet files, .tar shards or a hub id",
    )
    command.add_argument("--profile", default="sd15", help="the file of profiles/ to start from")
    command.add_argument("--base", help="a base model other than the profile's: a folder, file or hub id")
    command.add_argument(
        "--config",
        help="for a --base of one file: the folder or hub id whose configuration it has (default: inferred from its keys)",
    )
    command.add_argument("--resolution", type=int, help="another side of the images, in pixels")
    command.add_argument(
        "--small-images",
        default="drop",
        help="what becomes of images below the resolution: drop (default) or enlarge",
    )
    command.add_argument(
        "--min-images",
        type=int,
        metavar="N",
        help="go on with N usable images or more (default: 16)",
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="for a first look: every stage on your data and base in minutes, smaller and with next to nothing to do",
    )
    command.add_argument("--out", type=Path, default=Path("params.yaml"), help="the file to write")
    command.add_argument(
        "--force", action="store_true", help="replace the file though it is no untouched profile"
    )
    command.set_defaults(run=run_init)


def run_init(options: argparse.Namespace) -> None:
    """Look at the data source, write the parameter file, say what was found and what comes next.

    Raises `ParamsError` for an option that cannot be, if the file exists without --force or there is no such profile,
    `ModelError` for a base that cannot be, and `DataError` if the source has too few captioned images.
    """
    profile = _checked(options)
    params = yaml.safe_load(profile.read_text(encoding="utf-8"))
    resolution = options.resolution
    if resolution is None:
        resolution = quick_resolution(params["resolution"]) if options.quick else params["resolution"]
    if resolution % 8 or not 0 < resolution <= MAX_RESOLUTION:
        raise ParamsError(
            f"--resolution must be a positive multiple of 8, at most {MAX_RESOLUTION}, got {resolution}; choose one."
        )
    base = None if options.base is None else choose_base(_from_here(options.base), options.config)

    from spin.tools.init.enough import FEWEST_IMAGES, check_enough
    from spin.tools.init.survey import survey_source
    from spin.tools.init.told import told

    wants_pairs = any(baseline["objective"] == "dpo" for baseline in params["baselines"].values())
    small = SMALL_IMAGES[options.small_images]
    buckets = _buckets_at(params["data"].get("aspect_buckets"), resolution)
    survey = survey_source(_from_here(options.images), resolution, small, wants_pairs, buckets)
    check_enough(survey.images, survey.card, survey.look, resolution, options.min_images or FEWEST_IMAGES)

    # Write, and say what was found and what comes next.
    text, schedule = _filled(profile, params, survey, resolution, base, options.quick)
    found = _write(options.out, text)
    listed = _list_dropped(options.out, survey)
    print("\n".join(told(survey, found, listed)))
    if base is not None and base.said:
        print(base.said)
    data = survey.data
    print(
        f"{options.out}: from profiles/{profile.name}; of {survey.captions} captions {data.num_val} are held out for "
        f"previews and {data.num_test} for evaluation; {schedule}"
    )
    print(NEXT_QUICK if options.quick else NEXT)


def _checked(options: argparse.Namespace) -> Path:
    """Refuse options that cannot be, before any work; return the profile's file."""
    for name in ("images", "base", "config"):
        if getattr(options, name) == "":
            raise ParamsError(f"--{name} must name something, got an empty text; correct it.")
    if options.out.exists() and not options.force and not is_a_profile(options.out):
        raise ParamsError(
            f"{options.out} must not exist yet, but it does; add --force to replace it, or --out FILE."
        )
    if options.small_images not in SMALL_IMAGES:
        raise ParamsError(
            f"--small-images must be {' or '.join(SMALL_IMAGES)}, got {options.small_images}; choose one."
        )
    if options.min_images is not None and options.min_images < 1:
        raise ParamsError(f"--min-images must be at least 1, got {options.min_images}; choose a number.")
    if options.config is not None and options.base is None:
        raise ParamsError(
            f"--config must go with a --base that is one .safetensors file, got {options.config} alone; add --base."
        )
    return profile_path(options.profile)


def _buckets_at(given: dict[str, Any] | None, resolution: int) -> AspectBuckets | None:
    """The profile's buckets, unless another resolution has none of their step but the square, or not even that."""
    buckets = None if given is None else AspectBuckets.model_validate(given)
    if buckets is None or resolution % buckets.step or len(buckets.sizes(resolution)) == 1:
        return None
    return buckets


def _filled(
    profile: Path,
    params: dict[str, Any],
    survey: "Survey",
    resolution: int,
    base: ChosenBase | None,
    quick: bool,
) -> tuple[str, str]:
    """The profile's text with what was found, and what became of its updates and batch."""
    text, schedule = profile.read_text(encoding="utf-8"), "updates and batch are the profile's"
    if survey.training_images is not None and not quick:
        text, said = for_images(text, params, survey.training_images)
        schedule = said or schedule
    text = for_own_images(text, pairs=survey.data.kind == "pickapic")
    text = with_section(text, "data", _own_keys_first(survey.data), f"{survey.captions} captions found")
    if resolution != params["resolution"]:
        text = with_value(text, "resolution", resolution)
    if base is not None:
        text = with_section(text, "base", dict.fromkeys(params["base"]) | base.section)
    if quick:
        rows = survey.look.decoded + survey.look.undecoded if survey.look.complete else None
        text, schedule = quickly(text, rows), "a first look: no result comes of it"
    return f"# From profiles/{profile.name} by `spin init{' --quick' if quick else ''}`.\n{text}", schedule


def _write(out: Path, text: str) -> Params:
    """Write the parameters and return them as read; raises `ParamsError`, with nothing written, if they do not read."""
    with replacing_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            return load_params(temporary)
        except ParamsError as error:
            said = str(error).removeprefix(f"{temporary}: ").replace(str(temporary), str(out))
            raise ParamsError(f"{out} was not written, since {said}") from None


def _list_dropped(out: Path, survey: "Survey") -> Path | None:
    """Write which files or rows are dropped, and why, beside the parameter file; None if there are none."""
    path = out.with_name(f"{out.stem}.dropped.csv")
    rows = [*survey.card.names, *((name, "not listed in the metadata") for name in survey.unlisted)]
    if not rows:
        path.unlink(missing_ok=True)
        return None
    with (
        replacing_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        csv.writer(stream).writerows([("file", "why"), *rows])
    return path


def _own_keys_first(data: ImageData) -> dict[str, Any]:
    """The section as a reader expects it: its kind, where it is, then what every kind has."""
    values = data.model_dump()
    shared = list(ImageData.model_fields)
    return {"kind": values["kind"], **dict(sorted(values.items(), key=lambda item: item[0] in shared))}


def _from_here(source: str) -> str:
    """A path below the current folder relative to it, as the stages read it; another path absolute; else as given."""
    if not Path(source).exists():
        return source
    path, here = Path(source).resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
