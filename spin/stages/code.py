"""What each stage's code means, as a file of hashes that the stage depends on in place of its source files."""

from spin import paths
from spin.params.schema import Params
from spin.runtime.code import code_of
from spin.runtime.files import replacing_dir, write_json
from spin.stages.table import STAGES


def run_code(params: Params) -> None:
    """Write outputs/code/STAGE.json for every stage: {module: SHA-256 of its meaning} of all it reaches by import."""
    del params
    with replacing_dir(paths.CODE) as out:
        for stage in STAGES.values():
            if stage.name != "code":
                write_json(out / f"{stage.name}.json", code_of(stage.run))
