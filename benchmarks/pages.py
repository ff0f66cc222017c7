"""The numbers and pictures of README.md and docs/results.md, from results on disk; none is typed by hand.

    python -m benchmarks.pages [--outputs outputs] [--study benchmarks/results/toy-study.json]

`--outputs` is of a finished demo. A conclusion that no longer follows from the numbers is refused.
"""

import argparse
import shutil
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from benchmarks.study.pages import label, title
from spin.errors import EvaluationError
from spin.evaluation.labels import model_label
from spin.evaluation.lineage import revision_line
from spin.runtime.files import read_json, read_parquet, replacing_file

ROOT = Path(__file__).resolve().parent.parent
CONTINUAL = ROOT / "benchmarks" / "results" / "toy-continual.csv"
SPIN, QUANTILES = ["iter1", "iter2", "iter3"], (0.9, 0.7, 0.5)
TILE, GAP, LINE = 224, 8, 26
"""Of the picture, in pixels: side of an image, distance between two, height of a line of text."""
README_MODELS = ["base", "sft", "sft_total", "dpo", "dpo_total", *SPIN]
OUTCOMES = {"win_rate": "Prompts won", "psnr": "PSNR"}


def verdicts(study: dict[str, Any], wanted: str) -> list[str]:
    """A sentence for each base and primary outcome with the planned comparisons of this verdict, and by how much."""
    said = []
    for base, found in study["bases"].items():
        for key, outcome in OUTCOMES.items():
            rows = [row for row in found["comparisons"] if row[key]["verdict"] == wanted]
            told = ", ".join(
                f"{label(row['model'])} over {label(row['over'])} ({_amount(row, key)})" for row in rows
            )
            said += [f"{title(base)}. {outcome}: {told}."] if rows else []
    return said


def _amount(row: dict[str, Any], key: str) -> str:
    mean = row[key]["mean"]
    return f"{100 * mean:.1f}%" if key == "win_rate" else f"{mean:+.2f} dB"


def brief_table(study: dict[str, Any], models: list[str]) -> str:
    """The README's: prompts won over the base and PSNR, means over seeds, of every base."""
    bases = study["bases"]
    heads = [
        f"{name}: {what}" for name in map(title, bases) for what in ("wins over the base, %", "PSNR, dB")
    ]
    lines = [f"| Model | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for model in models:
        cells = []
        for found in bases.values():
            wins = found["over_base"].get(model)
            cells.append(f"{100 * wins['win_rate']['mean']:.1f}" if wins else "")
            cells.append(f"{found['means'][model]['oracle_psnr']:.2f}")
        lines.append(f"| {label(model)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def needs_care(study: dict[str, Any], outputs: Path) -> dict[str, bool]:
    """Sentences that ask for care, and whether they follow."""
    curve = pd.read_csv(CONTINUAL)
    between = curve[(curve["path"] == "between") & (curve["scorer"] == "average")]
    better, worse = int((between["low"] > 0).sum()), int((between["high"] < 0).sum())
    going = f"""Moving to iteration 2 against going on inside iteration 1, paired, on one seed's
        [validation prompts](../benchmarks/results/toy-continual.md): better at {better} of {len(between)} points measured,
        worse at {worse}."""
    ends = [pd.read_csv(outputs / "curves" / f"{name}.csv").tail(16).mean() for name in SPIN]
    errors = """In the last 16 updates of each iteration of the demo the player's error on real images is above its
        reference's, and that on opponents further above: self-play moves by telling them apart."""
    told = {going: True, errors: all(0 < end["error_real_change"] < end["error_gen_change"] for end in ends)}
    for base, found in study["bases"].items():
        clip = {name: row["clip"] for name, row in found["means"].items()}
        spans = ", ".join(f"{clip[name]:.3f}" for name in ("base", *SPIN))
        told[f"{title(base)}. CLIP score of the base and of iterations 1 to 3: {spans}."] = True
    return told


def listed(claims: dict[str, bool]) -> str:
    """Sentences as a list; raises `EvaluationError` for one that does not follow."""
    if not all(claims.values()):
        raise EvaluationError(f"the results must bear out every sentence, but it is {claims}.")
    return "\n".join(fill(f"- {' '.join(text.split())}", 118, subsequent_indent="  ") for text in claims)


def results(study: dict[str, Any], record: Path, outputs: Path) -> dict[str, str]:
    """The blocks of docs/results.md."""
    of_test = ("head_to_head", "winrate_over_base", "winrate_over_dpo", "gap_closed", "mean")
    tables = (*(f"test/{name}" for name in of_test), "val/diversity")
    demo = revision_line(outputs.resolve().parent)
    shown = "\n".join((outputs / f"tables/{name}.md").read_text("utf-8") for name in tables)
    text = (
        record.with_suffix(".md")
        .read_text("utf-8")
        .partition("\n")[2]
        .replace("(../study/", "(../benchmarks/study/")
    )
    return {
        "study": text.replace("\n## ", "\n### "),
        "what holds": listed(dict.fromkeys(verdicts(study, "holds"), True)),
        "what does not": listed(
            {f"Not shown either way. {text}": True for text in verdicts(study, "open")}
            | {f"The opposite holds. {text}": True for text in verdicts(study, "the opposite")}
            | needs_care(study, outputs)
        ),
        "demo": f"    make demo\n\nCommit {demo}.\n\n{shown}",
    }


def drawn(outputs: Path, model: str) -> pd.DataFrame:
    """What a model drew for each test prompt, and its PSNR."""
    samples = read_parquet(outputs / f"samples/test/{model}/manifest.parquet").set_index("prompt_id")
    scores = read_parquet(outputs / f"scores/test/{model}/scores.parquet").set_index("prompt_id")
    samples["image"] = f"{outputs}/samples/test/{model}/" + samples["image"]
    return samples.join(scores["oracle_psnr"])


def chosen_prompts(base: pd.DataFrame, spin: pd.DataFrame) -> tuple[list[str], str]:
    """Three test prompts by a rule that leaves no choice, and the rule."""
    gains = (spin["oracle_psnr"] - base["oracle_psnr"]).rename("gain").reset_index()
    order = gains.sort_values(["gain", "prompt_id"])["prompt_id"]
    rule = f"""Of {len(order)} test prompts those at the {", ".join(f"{share:.0%}" for share in QUANTILES)} quantiles of SPIN
        iteration 3's gain over the base in the oracle's PSNR, ties by prompt id; on {(gains["gain"] < 0).mean():.0%} of them
        it is below the base. All from one seed."""
    return [order.iloc[round(share * (len(order) - 1))] for share in QUANTILES], " ".join(rule.split())


def draw_picture(models: dict[str, pd.DataFrame], prompts: list[str]) -> Image.Image:
    """Prompts x models, each image enlarged pixel by pixel, with its PSNR below it."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    plain, bold = (ImageFont.truetype(fonts / f"DejaVuSans{weight}.ttf", 16) for weight in ("", "-Bold"))
    height, width = TILE + 2 * LINE + GAP, len(models) * (TILE + GAP) - GAP
    draw = ImageDraw.Draw(picture := Image.new("RGB", (width, LINE + len(prompts) * height), "white"))
    for column, (name, frame) in enumerate(models.items()):
        x = column * (TILE + GAP)
        draw.text((x + TILE / 2, LINE / 2), model_label(name), "black", bold, anchor="mm")
        for row, shown in enumerate(frame.loc[prompts].to_dict("records")):
            y = LINE + row * height
            if not column:
                draw.text((0, y + LINE / 2), shown["prompt"], "black", plain, anchor="lm")
            tile = Image.open(shown["image"]).resize((TILE, TILE), Image.Resampling.NEAREST)
            picture.paste(tile, (x, y + LINE))
            psnr = f"{shown['oracle_psnr']:.1f} dB"
            draw.text((x, y + 1.5 * LINE + TILE), psnr, "#555555", plain, anchor="lm")
    return picture


def fill_in(page: Path, blocks: dict[str, str]) -> None:
    """Put each block between the markers of its name."""
    text = page.read_text("utf-8")
    for name, block in blocks.items():
        start, end = f"<!-- {name}: made by `python -m benchmarks.pages` -->", f"<!-- end of {name} -->"
        if not 0 <= text.find(start) < text.find(end):
            raise EvaluationError(f"{page} must have the lines {start} and {end}, in this order.")
        text = f"{text.partition(start)[0]}{start}\n\n{block.rstrip()}\n\n{end}{text.partition(end)[2]}"
    with replacing_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Fill the marked blocks and draw the pictures."""
    parser = argparse.ArgumentParser(description="Fill README.md and docs/results.md from results.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--study", type=Path, default=ROOT / "benchmarks/results/toy-study.json")
    given = parser.parse_args()
    study, docs = read_json(given.study), ROOT / "docs"
    models = {name: drawn(given.outputs, name) for name in ("base", "dpo", "iter3", "clean")}
    prompts, rule = chosen_prompts(models["base"], models["iter3"])
    blocks = {
        "caption": f"*{rule} Clean is the correct picture through the autoencoder, the ceiling.*",
        "table": brief_table(study, README_MODELS),
    }
    fill_in(docs / "results.md", results(study, given.study, given.outputs))
    fill_in(ROOT / "README.md", blocks)
    shutil.copyfile(given.study.with_suffix(".png"), docs / "images/study.png")
    draw_picture(models, prompts).save(docs / "images/readme.png", optimize=True)
    shutil.copyfile(given.outputs / "report" / "grid.png", docs / "images/grid.png")
    print(f"{rule}\nThey are {', '.join(prompts)}. Filled README.md and docs/results.md, drew docs/images.")


if __name__ == "__main__":
    main()
