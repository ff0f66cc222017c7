"""A run with other parameters has a folder of its own: the project stays as it is, and what is the same is not made again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.evaluate import evaluate
from flows.forms import Evaluate, SelfPlay
from flows.links import runs_page
from flows.parameters import chosen
from flows.self_play import self_play
from flows.workspace import name_of, project_of, workspace
from spin.errors import ParamsError
from tests.flows.clones import ROOT, dvc

MakeProject = Callable[[str], Path]
MINIATURE = """
stages:
  data: {cmd: 'cat images/one code/made > outputs/data; echo data >> $COUNTED', deps: [code], params: [seed], outs: [outputs/data]}
  train:
    foreach: {iter1: data, iter2: data}
    do:
      cmd: 'cat outputs/data > outputs/${key}; grep -c " batch_size: 64" params.yaml >> outputs/${key}; echo ${key} >> $COUNTED'
      deps: [outputs/data]
      params: [training.batch_size]
      outs: ['outputs/${key}']
  register: {cmd: 'echo register >> $COUNTED; echo r > outputs/register', deps: [outputs/iter1], outs: [outputs/register]}
"""
RELEASED = """
stages:
  released:
    foreach: ${released}
    do: {cmd: 'mkdir -p outputs && cp ${item.source}/unet/config.json outputs/${key}', params: ['released.${key}'], outs: ['outputs/${key}']}
  tables:
    foreach: ${evaluate.prompt_sets}
    do: {cmd: 'mkdir -p outputs/tables/${item} && cat outputs/mine > outputs/tables/${item}/t.md', deps: [outputs/mine], outs: ['outputs/tables/${item}']}
  report: {cmd: 'cp -r outputs/tables outputs/report', deps: [outputs/tables], outs: [outputs/report]}
"""


@pytest.fixture
def project(dvc_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a code folder, images that DVC does not know, and all of it made."""
    root = dvc_project(MINIATURE)
    (root / "params.yaml").write_text((ROOT / "profiles" / "toy.yaml").read_text())
    for name, text in {"code/made": "code\n", "images/one": "image\n", "outputs/note": ""}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setenv("COUNTED", str(root / "counted"))
    monkeypatch.chdir(root)
    return root


def counted(root: Path) -> list[str]:
    """What ran since the last look."""
    ran = (root / "counted").read_text().split() if (root / "counted").is_file() else []
    (root / "counted").write_text("")
    return sorted(ran)


def files(root: Path) -> dict[Path, bytes]:
    """What the project's files hold, its parameters and outputs among them."""
    seen = [path for path in (*root.iterdir(), *(root / "outputs").iterdir()) if path.is_file()]
    return {path: path.read_bytes() for path in seen if path.name != "counted"}


def play(**fields: Any) -> Any:
    return self_play(SelfPlay(**fields), return_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_other_parameters_leave_the_project_alone_and_share_what_is_the_same(project: Path) -> None:
    assert play().message == "4 stages ran, 0 were cached."
    assert counted(project) == ["data", "iter1", "iter2", "register"]
    before = files(project)

    # Data are the same; the project's models are not registered anew.
    changed = {"overrides": {"training.batch_size": 64}}
    assert play(**changed).message == "2 stages ran, 1 came from DVC's cache or remote, 0 were cached."
    assert counted(project) == ["iter1", "iter2"]
    assert files(project) == before
    assert "up to date" in dvc(project, "status")
    (folder,) = (project / ".spin/runs").iterdir()
    assert (folder / "outputs/iter1").read_text() == "image\ncode\n1\n"

    # The same once more goes on in the same folder, with the code as it is now.
    assert play(**changed).message == "0 stages ran, 3 were cached."
    (project / "code/made").write_text("better code\n")
    assert play(**changed, targets=["train@iter1"]).message == "2 stages ran, 0 were cached."
    assert counted(project) == ["data", "iter1"]
    assert list((project / ".spin/runs").iterdir()) == [folder]


def test_a_workspace_has_the_projects_remote_cache_and_memory_but_not_its_outputs(project: Path) -> None:
    dvc(project, "remote", "add", "-q", "-d", "store", "../remote")
    raw = chosen(project, None, {"seed": 3})
    name = name_of("params", raw)
    with workspace(project, name, raw, {}) as folder:
        assert yaml.safe_load((folder / "params.yaml").read_text()) == raw
        listed = dvc(folder, "remote", "list").split()
        assert Path(folder / listed[1]).resolve() == (project.parent / "remote").resolve()
        assert dvc(folder, "cache", "dir").strip() == str(project / ".dvc/cache")
        assert (folder / "images").resolve() == project / "images"
        assert not (folder / "code").is_symlink()
        assert not (folder / "outputs").exists()
        assert (folder / ".spin/mlflow").resolve() == project / ".spin/mlflow"
        assert project_of(folder) == project
        assert project_of(project) == project
        with (
            pytest.raises(
                ParamsError, match=r"A run with these settings is under way in \.spin/runs/params-\w+; wait"
            ),
            workspace(project, name, raw, {}),
        ):
            raise AssertionError("two at once")
    with workspace(project, name, raw, {}) as again:
        assert again == folder
    assert name_of("params", chosen(project, None, {"seed": 4})) != name


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_bad_input_ends_before_any_stage(project: Path) -> None:
    for fields, sentence in (
        ({"targets": ["tarin"]}, "targets must name stages of dvc.yaml, got tarin"),
        ({"up_to": "iter9"}, "up_to must be one of the iterations iter1, iter2, got iter9"),
        ({"profile": "sd16"}, "profile must be one of none, got sd16"),
        ({"overrides": {"seed": "x"}}, "seed must be a whole number"),
        ({"push": True}, "pull and push need a DVC remote, found none"),
    ):
        state = play(**fields)
        assert state.name == "BadInput"
        assert sentence in state.message
    assert counted(project) == []
    assert not (project / ".spin/runs").exists(), "no folder is made for what cannot be meant"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_results_that_the_remote_did_not_take_are_not_called_done(project: Path) -> None:
    (project.parent / "file").write_text("no folder")
    dvc(project, "remote", "add", "-q", "-d", "store", str(project.parent / "file"))
    state = play(targets=["data"], push=True)
    assert state.is_failed()
    assert state.message.startswith("1 stages ran, 0 were cached. But the remote did not take all of it (")
    assert (project / "outputs/data").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_is_done_is_on_the_remote_though_a_later_stage_fails(
    dvc_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dvc_project(
        "stages:\n  data: {cmd: echo x > d, params: [seed], outs: [d]}\n  base: {cmd: exit 2, deps: [d], outs: [b]}\n"
    )
    (root / "params.yaml").write_text((ROOT / "profiles" / "toy.yaml").read_text())
    dvc(root, "remote", "add", "-q", "-d", "store", str(root / "remote"))
    monkeypatch.chdir(root)
    assert play(push=True).name == "BadInput"
    (root / "d").unlink()
    for folder in (".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(root / folder)
    assert (
        play(targets=["data"], pull=True).message
        == "0 stages ran, 1 came from DVC's cache or remote, 0 were cached."
    )


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_checkpoint_is_evaluated_in_a_folder_of_its_own_and_again_when_its_weights_change(
    dvc_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dvc_project(RELEASED)
    (root / "params.yaml").write_text((ROOT / "profiles" / "toy.yaml").read_text())
    (root / "mine/unet").mkdir(parents=True)
    monkeypatch.chdir(root)
    for weights in ("first", "second"):
        (root / "mine/unet/config.json").write_text(weights)
        state = evaluate(Evaluate(checkpoint="mine"), return_state=True)
        assert state.message == "4 stages ran, 0 were cached."
    made = sorted(
        path.read_text() for path in root.glob(".spin/runs/evaluate-mine-*/outputs/report/test/t.md")
    )
    assert made == ["first", "second"]
    assert not (root / "outputs").exists()


def test_no_page_is_linked_where_no_mlflow_is_up(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "profiles" / "toy.yaml").read_text())
    assert runs_page(tmp_path) is None
    assert runs_page(tmp_path / "nothing") is None
