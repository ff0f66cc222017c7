"""A person's images are decoded once: a killed data stage goes on, and a finished one is kept until DVC has recorded it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import spin.data.writer
from spin import paths
from spin.data.writer import DataSetWriter
from spin.params.data import FolderData
from spin.params.schema import Params
from spin.runtime.files import sha256_tree
from spin.stages.data import run_data
from spin.stages.kept_work import remove_recorded
from tests.data.images import write_mixed_folder
from tests.stages.kept import flip, record, works
from tests.stages.projects import parameters


@pytest.fixture
def params(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a data set of a person's folder, in whose project the test is."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()
    write_mixed_folder(Path("pictures"))
    data = {"kind": "folder", "path": "pictures", "num_val": 2, "num_test": 2, "small_images": "drop"}
    data |= {"aspect_buckets": None, "trigger": None, "repeats": False}
    return parameters(tiny_base).model_copy(update={"data": FolderData.model_validate(data)})


def test_images_that_are_prepared_are_not_decoded_again(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_data(params)
    before = sha256_tree(paths.DATA)

    # DVC had no room, and then again none.
    for _ in range(2):
        shutil.rmtree(paths.DATA)
        with monkeypatch.context() as patch:
            patch.setattr(spin.data.writer, "prepare_image", lambda *_: pytest.fail("decoded again"))
            run_data(params)
        assert sha256_tree(paths.DATA) == before
        assert works() == {"data"}

    # Another source is another work, and takes the place of the first.
    picture = sorted(Path("pictures").glob("*.jpg"))[3]
    picture.write_bytes(picture.read_bytes() + b" ")
    run_data(params)
    assert sha256_tree(paths.DATA) != before
    assert len(list(Path(".spin/work").glob("data-*"))) == 1
    record(paths.DATA)
    remove_recorded()
    assert works() == set()


def test_a_killed_data_stage_decodes_what_is_missing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    original, keep = spin.data.writer.prepare_image, DataSetWriter._keep
    decoded: list[int] = []
    monkeypatch.setattr(
        spin.data.writer, "prepare_image", lambda *given: (decoded.append(1), original(*given))[1]
    )
    run_data(params)
    before, all_of_them = sha256_tree(paths.DATA), len(decoded)
    kept: list[Any] = []

    shutil.rmtree(".spin/work")

    # Killed after 20 images, while threads decode further ones; one of the kept images is damaged, one cut short.
    with monkeypatch.context() as patch:

        def killed(self: DataSetWriter, *arguments: Any) -> None:
            if len(kept) == 20:
                raise KeyboardInterrupt
            kept.append(arguments)
            keep(self, *arguments)

        patch.setattr(DataSetWriter, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            run_data(params)
    assert sha256_tree(paths.DATA) == before, "the finished output stays until the new one is whole"
    (ready,) = Path(".spin/work").glob("data-*/ready/images-*.bin")
    flip(ready)
    ready.write_bytes(ready.read_bytes()[:-50])

    # The same bytes, and no more decoded than was not kept.
    decoded.clear()
    run_data(params)
    assert sha256_tree(paths.DATA) == before
    assert len(decoded) <= all_of_them - 20 + 2
