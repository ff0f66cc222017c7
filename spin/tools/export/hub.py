"""`spin export --push-to-hub NAME`: what can be refused is refused before the export, and the export goes up in one commit.

Nothing goes to the hub but the exported files and a card: no export.json and no lists of sums, which name local places.
"""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin.errors import ModelError
from spin.models.reference import read_reference
from spin.params.model import EMBEDDED
from spin.runtime.hub import is_hub_id
from spin.tools.export.hub_card import SAMPLES, hub_card, sample_sheet
from spin.tools.export.recorded import recorded_of

logger = logging.getLogger(__name__)

NOT_SHARED = {"README.md", "export.json", "spin.sha256"}
READERS = ("read", "no_access")
"""Roles in an organisation that may not write."""


@dataclass(frozen=True)
class Target:
    """A place on the hub that this user may write to."""

    repo: str
    public: bool
    licence: str | None


def check_hub(name: str, public: bool, licence: str | None, checkpoint: Path) -> Target:
    """Ask the hub who the user is and whether NAME, or OWNER/NAME, may be written.

    Raises `ModelError` for a malformed name, without a token, without the right to write, for a repository that is public
    where `public` was not said, and for a public one whose licence nobody knows.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(
            f"--push-to-hub must be NAME or OWNER/NAME as the hub writes it, got {name} ({_reason(error)}); correct it."
        ) from None
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise ModelError(
            f"--license must be a name of the hub's such as openrail or apache-2.0, got {licence}; correct it."
        )
    api = HfApi()
    with _asking("the hub must say who you are"):
        user = api.whoami()
    owner, _, short = name.rpartition("/")
    repo = f"{owner or user['name']}/{short}"
    _check_rights(user, repo)
    with _asking(f"the hub must say whether there is a {repo}"):
        try:
            there = api.model_info(repo)
        except RepositoryNotFoundError:
            there = None
    if there is not None and not there.private and not public:
        raise ModelError(
            f"--push-to-hub is private unless --public is given, but {repo} is there and public; add --public or name another."
        )
    licence = licence or _licence_of_base(api, checkpoint)
    if public and licence is None:
        raise ModelError(
            "--public needs a licence for the card, but the base names none; give it with --license, such as "
            "--license openrail, if its terms allow that."
        )
    return Target(repo, public, licence)


def push(target: Target, exported: Path, checkpoint: Path, root: Path = Path()) -> str:
    """Make the repository if it is not there, upload the export with a card and a sheet of samples, and return its address.

    Raises `ModelError` if the hub refuses; the export stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    kept = f"{exported} is whole: run the same command again with --force"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _link(exported, folder)
        recorded = recorded_of(checkpoint, root)
        hub_card(exported, checkpoint, target.repo, target.licence, recorded).save(folder / "README.md")
        if (sheet := sample_sheet(checkpoint, recorded)) is not None:
            sheet.save(folder / SAMPLES)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        logger.info("uploading %.1f MB to %s", size, target.repo)
        with _asking(f"the hub must take {target.repo}", kept):
            made = api.create_repo(target.repo, private=not target.public, exist_ok=True)
            api.upload_folder(
                repo_id=target.repo, folder_path=folder, commit_message=f"Export of {checkpoint.name}"
            )
            if target.public:
                api.update_repo_settings(target.repo, private=False)  # of one that was there and private
    return str(made)


def _check_rights(user: dict[str, Any], repo: str) -> None:
    """Refuse a token that only reads, or an owner that is neither the user nor an organisation where they may write."""
    owner, token = repo.partition("/")[0], user.get("auth", {}).get("accessToken", {})
    writable = {user["name"]} | {
        each["name"] for each in user.get("orgs", []) if each.get("roleInOrg") not in READERS
    }
    if owner not in writable:
        raise ModelError(
            f"--push-to-hub must name a place where {user['name']} may write ({', '.join(sorted(writable))}), got {repo}; "
            "correct the owner, or log in as another with `hf auth login`."
        )
    scopes = token.get("fineGrained", {}).get("scoped", [])
    allowed = any(
        each.get("entity", {}).get("name") in (owner, repo) and "repo.write" in each.get("permissions", [])
        for each in scopes
    )
    if token.get("role") == "read" or (token.get("role") == "fineGrained" and not allowed):
        raise ModelError(
            f"--push-to-hub needs a token that may write to {repo}, but this one may not; make one on the hub's page of "
            "tokens and give it by `hf auth login` or HF_TOKEN."
        )


def _licence_of_base(api: Any, checkpoint: Path) -> str | None:
    """What the card of the base says, on the hub or in its folder."""
    from huggingface_hub import ModelCard

    model = read_reference(checkpoint)
    source = str(model.get("base", model)["source"])
    if source in EMBEDDED:
        return "apache-2.0"  # trained here, from nothing
    try:
        if (Path(source) / "README.md").is_file():
            data: Any = ModelCard.load(Path(source) / "README.md").data
        elif is_hub_id(source) and not Path(source).exists():
            data = api.model_info(source).card_data
        else:
            return None
    except Exception:  # gone, gated, no card, a card that does not parse
        return None
    licence = getattr(data, "license", None)
    return str(licence) if isinstance(licence, str) else None


def _link(exported: Path, folder: Path) -> None:
    """What is to be uploaded, by links: the files of an exported folder, or the one file."""
    files = [exported] if exported.is_file() else [path for path in exported.rglob("*") if path.is_file()]
    root = exported.parent if exported.is_file() else exported
    for path in files:
        if path.name not in NOT_SHARED:
            link = folder / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


@contextmanager
def _asking(wanted: str, remedy: str = "try again") -> Iterator[None]:
    """Whatever the client raises, as one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise ModelError(
            "--push-to-hub needs a token of the hub, found none; log in with `hf auth login`, or set HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ModelError(
                "--push-to-hub needs a token that the hub knows, but it refused this one; log in again with `hf auth login`, "
                "or correct HF_TOKEN."
            ) from None
        if status == 403:
            remedy = f"ask its owner for the right to write, or name another; {remedy}"
        raise ModelError(f"{wanted}, but it answers {status} ({_reason(error)}); {remedy}.") from None
    except Exception as error:  # no network, offline mode, a proxy's page in place of JSON
        raise ModelError(
            f"{wanted}, but it does not answer ({_reason(error)}); check the network; {remedy}."
        ) from None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
