"""`spin fetch`: download and verify all that a parameter file needs of the hub, for a machine that loses the network later."""

import argparse
from pathlib import Path

from spin import paths
from spin.errors import ModelError, SpinError
from spin.params.schema import Params, load_params
from spin.runtime.files import replacing_file
from spin.runtime.hub import fetch, first_line, torn_file
from spin.stages import preflight
from spin.stages.needs import Need, needs_of

GIB = 1 << 30
OWN = Path("params.yaml")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    text = "Download and verify what a run needs of the hub, before a machine loses its network."
    command = commands.add_parser("fetch", help=text, description=text)
    command.add_argument("--params", type=Path, default=OWN, help="parameter file or profile")
    command.add_argument(
        "--list", action="store_true", help="say what is here and what is not; download nothing"
    )
    command.add_argument(
        "--without-data", action="store_true", help="leave out the training images of a hub data set"
    )
    command.set_defaults(run=run_fetch)


def run_fetch(options: argparse.Namespace) -> None:
    """Bring everything here that can be had and say what there is.

    Raises a `SpinError` with the first thing that is not to be had, after all that is, or for a torn file.
    """
    params = load_params(options.params)
    preflight.check(params)
    needs = [need for need in needs_of(params) if not (options.without_data and need.key == "data.source")]
    if not needs:
        print(f"{options.params} needs nothing of the hub.")
        return
    refused: list[SpinError] = []
    for need in needs:
        try:
            print(_listed(need) if options.list else _brought(need, params, options.params), flush=True)
        except SpinError as error:
            print(f"{need.key}: {need.source}: not to be had", flush=True)
            refused.append(error)
    if refused:
        more = f" ({len(refused)} of {len(needs)} are not to be had)" if len(refused) > 1 else ""
        raise type(refused[0])(f"{refused[0]}{more}")
    if not options.list:
        check_together(params)
        print("all of it is here and whole; with HF_HUB_OFFLINE=1 nothing asks the hub any more")


def _listed(need: Need) -> str:
    """What is here, or what it would take."""
    found = need.find()
    if found is not None:
        return f"{need.key}: {need.source}: here, {_amount(found)}"
    sizes = need.sizes()
    return (
        f"{need.key}: {need.source}: to be had, up to {len(sizes)} files, {sum(sizes.values()) / GIB:.2f} GiB"
    )


def _brought(need: Need, params: Params, file: Path) -> str:
    """Fetch what is not here, and hold every file against the name that the hub gave its bytes."""
    found, word = need.find(), "here"
    if found is None:
        _bring(need, params, file)
        found, word = need.find(), "fetched"
        if found is None:
            raise need.refusal("what came is not all of it")
    torn = torn_file(found) if need.kind == "model" else None
    if torn is not None:
        raise ModelError(
            f"{need.key}: {torn} must hold the bytes that the hub has, but it does not; remove it and run `spin fetch` again."
        )
    return f"{need.key}: {need.source}: {word} and whole, {_amount(found)}"


def _bring(need: Need, params: Params, file: Path) -> None:
    if need.key.startswith("prompt_sets."):
        _prompts(params.prompt_sets[need.key.split(".")[1]].prompts)
    elif need.key == "data.source":
        _data(need, params, file)
    elif "model_index.json" in need.required:
        from spin.models.find import find_pipeline

        find_pipeline(need.key, need.source, need.revision, configs_only=need.key == "base.config")
    else:
        fetch(need.key, need.source, need.revision, need.patterns)


def _prompts(named_set: str) -> None:
    from spin.prompts.sets import load_prompt_set

    prompts = load_prompt_set(named_set)
    with replacing_file(paths.fetched_prompts(named_set)) as temporary:
        prompts.to_parquet(temporary, index=False)


def _data(need: Need, params: Params, file: Path) -> None:
    """Do the work of the stage `data`, which is kept until DVC asks for it; keep its commit, which the stage asks for."""
    from spin.stages.data import run_data

    if file.resolve() != OWN.resolve():
        raise need.refusal(
            f"the images are brought in for {OWN} alone; copy {file} there, or add --without-data"
        )
    fetch_commit(need)
    run_data(params)


def fetch_commit(need: Need) -> None:
    """Let the hub's cache know which commit of a data set is the newest."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            need.source, revision=need.revision, repo_type="dataset", allow_patterns=["README.md"]
        )
    except Exception as error:  # the client raises a dozen kinds
        raise need.refusal(first_line(error)) from None


def check_together(params: Params) -> None:
    """Raise `ModelError` unless the base and what is laid over it fit together."""
    from spin.models.bases import find_base, find_overlay

    base = find_base(params.base.model_dump())
    for name, released in params.released.items():
        find_overlay(f"released.{name}", released.model_dump(), base)


def _amount(found: Path) -> str:
    files = [file for file in found.rglob("*") if file.is_file()] if found.is_dir() else [found]
    return f"{len(files)} files, {sum(file.stat().st_size for file in files) / GIB:.2f} GiB"
