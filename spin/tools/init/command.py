"""`spin init`: from a folder of images to a params.yaml that runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spin.errors import ParamsError
from spin.params.buckets import AspectBuckets
from spin.params.data import ImageData
from spin.params.schema import load_params
from spin.runtime.files import replacing_file
from spin.tools.init.profile import for_own_images, profile_path, with_section, with_value

if TYPE_CHECKING:
    from spin.tools.init.survey import Survey


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
    command.add_argument("--resolution", type=int, help="another side of the images, in pixels")
    command.add_argument("--out", type=Path, default=Path("params.yaml"), help="the file to write")
    command.add_argument("--force", action="store_true", help="replace the file if it exists")
    command.set_defaults(run=run_init)


def run_init(options: argparse.Namespace) -> None:
    """Look at the data source, write the parameter file, say what was found and what comes next.

    Raises `ParamsError` if the file exists without --force or there is no such profile, and `DataError` if the source
    has no captioned images.
    """
    from spin.tools.init.survey import survey_source

    if options.out.exists() and not options.force:
        raise ParamsError(
            f"{options.out} must not exist yet, but it does; add --force to replace it, or --out FILE."
        )
    profile = profile_path(options.profile)
    params = yaml.safe_load(profile.read_text(encoding="utf-8"))
    resolution = params["resolution"] if options.resolution is None else options.resolution
    if resolution <= 0 or resolution % 8:
        raise ParamsError(f"--resolution must be a positive multiple of 8, got {resolution}; choose one.")
    wants_pairs = any(baseline["objective"] == "dpo" for baseline in params["baselines"].values())
    buckets = _buckets_at(params["data"].get("aspect_buckets"), resolution)
    survey = survey_source(_from_here(options.images), resolution, wants_pairs, buckets)
    text = _filled(profile, params, survey, resolution, options.base)
    with replacing_file(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            load_params(temporary)
        except ParamsError as error:
            raise ParamsError(str(error).replace(str(temporary), str(options.out))) from None
    print("\n".join(_told(survey, profile, options.out)))


def _buckets_at(given: dict[str, Any] | None, resolution: int) -> AspectBuckets | None:
    """The profile's buckets, unless another resolution has none of their step but the square, or not even that."""
    buckets = None if given is None else AspectBuckets.model_validate(given)
    if buckets is None or resolution % buckets.step or len(buckets.sizes(resolution)) == 1:
        return None
    return buckets


def _filled(
    profile: Path, params: dict[str, Any], survey: "Survey", resolution: int, base: str | None
) -> str:
    text = for_own_images(profile.read_text(encoding="utf-8"), pairs=survey.data.kind == "pickapic")
    text = with_section(text, "data", _own_keys_first(survey.data), f"{survey.captions} captions found")
    if resolution != params["resolution"]:
        text = with_value(text, "resolution", resolution)
    if base is not None:
        text = with_section(text, "base", dict.fromkeys(params["base"]) | {"source": _from_here(base)})
    return f"# From profiles/{profile.name} by `spin init`.\n{text}"


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


def _told(survey: "Survey", profile: Path, out: Path) -> list[str]:
    data = survey.data
    looked = "" if survey.complete else " (of its first rows; the others were not read)"
    return [
        f"{survey.card.source}: a {data.kind} with captions in {survey.kind}",
        f"{survey.card.sentence()}{looked}",
        f"{out}: from profiles/{profile.name}; of {survey.captions} captions {data.num_val} are held out for previews "
        f"and {data.num_test} for evaluation",
        "images are cropped to squares; data.aspect_buckets keeps portraits and landscapes whole (docs/data.md)"
        if data.aspect_buckets is None
        else "images are cropped to the nearest of several shapes, as data.aspect_buckets says",
        "next: `python -m spin data` brings the images in; `dvc repro` runs every stage",
    ]
