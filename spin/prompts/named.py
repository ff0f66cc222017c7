"""The published prompt sets: where each is had from, and how many prompts it must have.

pickapic_test_unique, pickapic_validation_unique   Kirstain et al. 2023, arXiv:2305.01569: 500 each
parti_prompts    Yu et al. 2022, arXiv:2206.10789: 1632 in 12 categories
hpsv2            Wu et al. 2023, arXiv:2306.09341: 800 in each of 4 styles, in the benchmark's order
spin_figure2, spin_figure11   the prompts of two galleries of Yuan et al. 2024, arXiv:2402.10210
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spin.errors import DataError
from spin.prompts.files import Row, checked, read_rows

PARTI_CATEGORIES = {
    "Abstract": 51,
    "Animals": 314,
    "Artifacts": 287,
    "Arts": 66,
    "Food & Beverage": 74,
    "Illustrations": 124,
    "Indoor Scenes": 40,
    "Outdoor Scenes": 131,
    "People": 177,
    "Produce & Plants": 50,
    "Vehicles": 104,
    "World Knowledge": 214,
}
HPS_STYLES = ("anime", "concept-art", "paintings", "photo")
HPS_PER_STYLE = 800
FIGURE_2 = (
    "a very cute boy, looking at audience, silver hair, in his room, wearing hoodie, at daytime, ai language model, "
    "3d art, c4d, blender, pop mart, blind box, clay material, pixar trend, animation lighting, depth of field, "
    "ultra detailed",
    "painting of a castle in the distance",
    "red and green eagle",
)
FIGURE_11 = (
    "A cartoon house with red roof",
    "a cartoon of an angry shark",
    "a cartoon of a bear birthday party",
    "a cartoon of a house on a mountain",
    "a cartoon of a boy playing with a tiger",
)


@dataclass(frozen=True)
class NamedSet:
    """A published prompt set."""

    counts: Mapping[str, int]
    """Prompts by category; the categories of a set without any are the empty text."""
    fetch: Callable[[], list[Row]]
    """From the hub, or from here where the prompts are few."""
    read: Callable[[Path], list[Row]] = read_rows
    """From a file or folder of the user's own copy."""


def _pick_a_pic(split: str) -> list[Row]:
    """Only captions and who wrote them: the images, most of the split's bytes, stay where they are."""
    columns = ["caption", "user_id"]
    return _from_hub("yuvalkirstain/pickapic_v2", split, "caption", None, "user_id", columns=columns)


def _parti() -> list[Row]:
    return _from_hub("nateraw/parti-prompts", "train", "Prompt", "Category", challenge="Challenge")


def _hps() -> list[Row]:
    """The four files that the benchmark's own code reads."""
    from huggingface_hub import hf_hub_download

    rows: list[Row] = []
    for style in HPS_STYLES:
        try:
            path = hf_hub_download("zhwang/HPDv2", f"benchmark/{style}.json", repo_type="dataset")
        except Exception as error:  # the client raises a dozen kinds: offline, gated, missing, disk full
            raise _unreachable("zhwang/HPDv2", error) from None
        rows += [(row[0], style) for row in read_rows(Path(path))]
    return rows


def read_hps(path: Path) -> list[Row]:
    """Read a folder with anime.json, concept-art.json, paintings.json and photo.json, or one file with categories."""
    if not path.is_dir():
        return read_rows(path)
    return [(row[0], style) for style in HPS_STYLES for row in read_rows(path / f"{style}.json")]


def _from_hub(
    repository: str,
    split: str,
    prompt: str,
    category: str | None,
    cluster: str | None = None,
    challenge: str | None = None,
    **reading: list[str],
) -> list[Row]:
    """Read the columns `prompt`, `category`, `cluster` and `challenge` of a data set on the hub, in its order."""
    from datasets import load_dataset

    try:
        rows = list(load_dataset(repository, split=split, streaming=True, **reading))
    except Exception as error:  # as above
        raise _unreachable(repository, error) from None
    further = (
        []
        if (cluster, challenge) == (None, None)
        else [cluster]
        if challenge is None
        else [cluster, challenge]
    )
    told = [
        (
            row[prompt],
            "" if category is None else row[category],
            *(row[name] if name else "" for name in further),
        )
        for row in rows
    ]
    return checked(told, repository)


def _unreachable(repository: str, error: Exception) -> DataError:
    reason = str(error).strip().split("\n")[0]
    return DataError(
        f"the prompts of {repository} must come from the hub, which could not be had ({type(error).__name__}:"
        f" {reason}); connect, or give a copy of them as the source."
    )


def _listed(prompts: tuple[str, ...]) -> NamedSet:
    return NamedSet({"": len(prompts)}, lambda: [(prompt, "") for prompt in prompts])


NAMED: dict[str, NamedSet] = {
    "pickapic_test_unique": NamedSet({"": 500}, lambda: _pick_a_pic("test_unique")),
    "pickapic_validation_unique": NamedSet({"": 500}, lambda: _pick_a_pic("validation_unique")),
    "parti_prompts": NamedSet(PARTI_CATEGORIES, _parti),
    "hpsv2": NamedSet(dict.fromkeys(HPS_STYLES, HPS_PER_STYLE), _hps, read_hps),
    "spin_figure2": _listed(FIGURE_2),
    "spin_figure11": _listed(FIGURE_11),
}

REPOSITORIES = {
    "pickapic_test_unique": "yuvalkirstain/pickapic_v2",
    "pickapic_validation_unique": "yuvalkirstain/pickapic_v2",
    "parti_prompts": "nateraw/parti-prompts",
    "hpsv2": "zhwang/HPDv2",
}
"""The hub's data set that a named set is read from, of those that are not written here."""
