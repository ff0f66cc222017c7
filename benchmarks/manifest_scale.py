"""What a training set costs in memory and time as its manifest grows.

    python -m benchmarks.manifest_scale --work FOLDER --out benchmarks/results/manifest-scale

Writes data sets of 1,000 to 10,000,000 rows, with as many shards of cache and opponents as real ones have, whose tensors hold
4 numbers an image in place of some 33,000; opens each with `spin_training_set` in a process of its own and fetches batches
at random. `--code CHECKOUT` measures the code of another checkout on the same files too. A further process lists the names
of what the cache stage would encode.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.record import about_here, about_line, write_record
from spin.data.cache import SHARD_SIZE, Cache
from spin.data.manifest import MANIFEST_SCHEMA, ROWS_HELD, write_prompts
from spin.evaluation.lineage import revision_line
from spin.runtime.files import write_json
from spin.runtime.sums import write_sums
from spin.runtime.tensors import save_shard
from spin.training.examples import spin_training_set

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
LARGEST_OF_OTHERS = 1_000_000
"""Rows up to which another checkout is measured: one that holds frames would take some 10 GB for the next size."""
BATCH, BATCHES = 64, 500
FIRST = 50
"""Batches that mostly meet shards whose bytes are not checked yet, and as many at the end that do not."""
DRAWN_SHARD = 256
"""Images in a shard of opponents, as in the profiles."""
DATA, CACHE, OPPONENTS = (Path("outputs") / name for name in ("data", "cache", "opponents/iter1"))


def write_set(folder: Path, num_rows: int) -> None:
    """Write a data set, its cache and its opponents to `folder`/outputs, as the stages lay them out."""
    from spin.data.names import Names, write_index  # here: another checkout may not have them

    names = [f"images/shard-{row // 700:05d}.tar:{row % 700 * 400_000}:400000" for row in range(num_rows)]
    sums = [f"{row:064x}" for row in range(num_rows)]
    captions = [
        f"caption {row} of a picture that somebody described in a sentence or so" for row in range(num_rows)
    ]
    data, cache, opponents = (folder / place for place in (DATA, CACHE, OPPONENTS))
    for place in (data, cache, opponents):
        place.mkdir(parents=True)
    with pq.ParquetWriter(data / "manifest.parquet", MANIFEST_SCHEMA) as writer:
        for part in parts(num_rows, ROWS_HELD):
            columns = {"id": [f"train-{row:07d}" for row in part], "split": ["train"] * len(part)}
            columns |= {
                name: values[part.start : part.stop]
                for name, values in (("caption", captions), ("image", names), ("sha256", sums))
            }
            sizes = {name: [512] * len(part) for name in MANIFEST_SCHEMA.names if name not in columns}
            writer.write_table(pa.table(columns | sizes, MANIFEST_SCHEMA))

    write_index(cache / "images.parquet", "image", Names(lambda: [names]), np.array(sums, "S64"))
    write_index(cache / "captions.parquet", "caption", Names(lambda: [captions]))
    shards = {
        part: [write_shard(cache / part, file, rows) for rows in parts(num_rows, SHARD_SIZE)]
        for part, file in (("latents", "posteriors"), ("captions", "text"))
    }
    write_json(cache / "cache.json", {"encoders": {}, **shards})

    for rows in parts(num_rows, DRAWN_SHARD):
        write_shard(opponents, "latents", rows)
    write_prompts(data, {"val": [("a caption held out", "")], "test": [("another one", "")]})
    ids = [f"train-{row:07d}" for row in range(num_rows)]
    index = {"id": ids, "row": range(num_rows), "drawn_by": ["base"] * num_rows, "flagged": [""] * num_rows}
    pq.write_table(pa.table(index), opponents / "index.parquet")
    for place in (data, cache, opponents):
        write_sums(place)


def parts(num_rows: int, size: int) -> Iterator[range]:
    """Consecutive ranges of `size` rows."""
    return (range(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def write_shard(folder: Path, file: str, rows: range) -> str:
    """Write a shard of two numbers a tensor and row, with a list as every shard has; return its key."""
    size = DRAWN_SHARD if file == "latents" else SHARD_SIZE
    shard, key = folder / f"shard-{rows.start // size:05d}", f"{file}-{rows.start}"
    shard.mkdir(parents=True)
    names = ("encoder_hidden_states",) if file == "text" else ("mean", "logvar")
    values = torch.arange(rows.start, rows.stop).float().reshape(-1, 1, 1, 1).expand(-1, 2, 1, 1)
    save_shard(shard / f"{file}.safetensors", dict.fromkeys(names, values), key)
    write_sums(shard)
    return key


def memory() -> dict[str, float]:
    """Of this process in MB: its peak, its own pages, and pages of mapped files, which the kernel drops when it must."""
    names = {"VmHWM": "peak", "RssAnon": "own", "RssFile": "mapped"}
    lines = Path("/proc/self/status").read_text().splitlines()
    told = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines if line.endswith("kB")}
    return {name: round(told[key], 1) for key, name in names.items()}


def open_and_fetch() -> dict[str, Any]:
    """Open the training set in the current folder and fetch some batches."""
    before, start = memory(), time.perf_counter()
    training_set = spin_training_set(DATA, Cache(CACHE), OPPONENTS)
    opened, opening = memory(), time.perf_counter() - start
    draw = np.random.default_rng(0)
    seconds = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        rows = training_set.fetch(draw.integers(training_set.num_rows, size=BATCH).tolist(), None)
        training_set.text(rows.captions)
        seconds.append(time.perf_counter() - start)
    return {
        "rows": training_set.num_rows,
        "before": before,
        "opened": opened,
        "after": memory(),
        "set_up_seconds": round(opening, 2),
        "seconds_of_first_batches": round(float(np.mean(seconds[:FIRST])), 4),
        "seconds_a_batch": round(float(np.mean(seconds[-FIRST:])), 4),
    }


def list_names() -> dict[str, Any]:
    """List the images and captions to encode, as each process of the cache stage does."""
    from spin.data.names import names_in

    before, start = memory(), time.perf_counter()
    images, captions = names_in(DATA)
    seconds = round(time.perf_counter() - start, 2)
    return {"names": len(images) + len(captions), "before": before, "after": memory(), "seconds": seconds}


MEASURES = {"set": open_and_fetch, "names": list_names}


def measure(what: str, folder: Path, code: Path) -> dict[str, Any]:
    """One of `MEASURES` on the files of `folder` in a process of its own, with the code of the checkout `code`."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", what]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"commit": revision_line(code), **result}


def main() -> None:
    """Parse the command line, measure, write the record."""
    parser = argparse.ArgumentParser(description="What a training set costs as its manifest grows.")
    parser.add_argument("--work", type=Path, help="folder for the data sets, 7 GB at the largest size")
    parser.add_argument("--out", type=Path, help="results without suffix")
    parser.add_argument("--code", type=Path, help="another checkout to measure too")
    parser.add_argument(
        "--measure", choices=MEASURES, help="measure the set in the current folder, print JSON"
    )
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(MEASURES[given.measure]()))
        return
    if given.work is None or given.out is None:
        parser.error("--work and --out are needed")
    results, listed = [], []
    for size in SIZES:
        folder = given.work.resolve() / str(size)
        shutil.rmtree(folder, ignore_errors=True)
        write_set(folder, size)
        others = [given.code] if given.code and size <= LARGEST_OF_OTHERS else []
        results += [measure("set", folder, code.resolve()) for code in (ROOT, *others)]
        listed.append(measure("names", folder, ROOT))
        print(*results[-len(others) - 1 :], listed[-1], sep="\n", flush=True)
        shutil.rmtree(folder)
    write_result(given.out, results, listed)


def write_result(out: Path, results: list[dict[str, Any]], listed: list[dict[str, Any]]) -> None:
    """Write NAME.json and NAME.md."""
    about = about_here(("pyarrow", "pandas", "torch", "safetensors"))
    lines = [
        f"# {out.name}",
        "",
        "`spin_training_set` on synthetic data sets with the real number of shards and tiny tensors; memory in MB (10^6 bytes) of",
        f"a process that imported everything, opened the set and fetched {BATCHES} batches of {BATCH} rows at random. Its own",
        "pages are what it cannot do without; pages of mapped files are the kernel's to drop. Files were in the page cache.",
        "",
        about_line(about),
        "",
        "| commit | rows | peak | own pages, before | opened | after the batches | mapped pages after | set-up, s | first batches, s each | last ones |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        cells = [each["commit"][:7], f"{each['rows']:,}", each["after"]["peak"], each["before"]["own"]]
        cells += [each["opened"]["own"], each["after"]["own"], each["after"]["mapped"]]
        cells += [each["set_up_seconds"], each["seconds_of_first_batches"], each["seconds_a_batch"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Names of images and captions as the cache stage lists them, in a process of its own:",
        "",
        "| names | peak | own pages, before | after | s |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in listed:
        cells = [f"{each['names']:,}", each["after"]["peak"], each["before"]["own"], each["after"]["own"]]
        lines.append(f"| {' | '.join(map(str, [*cells, each['seconds']]))} |")
    record = {"about": about, "batch": BATCH, "batches": BATCHES, "results": results, "names": listed}
    write_record(out, record, lines)


if __name__ == "__main__":
    main()
