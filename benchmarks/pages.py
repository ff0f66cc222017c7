"""The numbers and pictures of README.md and docs/results.md, from results on disk; none is typed by hand.

    python -m benchmarks.pages [--outputs outputs] [--study benchmarks/results/toy-study.json]

`--outputs` is of a finished demo. A conclusion that no longer follows from the numbers is refused.
"""

import argparse
import shutil
from pathlib import Path
from textwrap import fill

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from spin.errors import EvaluationError
from spin.evaluation.labels import model_label
from spin.evaluation.lineage import revision_line
from spin.runtime.files import read_json, read_parquet, replacing_file

ROOT = Path(__file__).resolve().parent.parent
CONTINUAL = ROOT / "benchmarks" / "results" / "toy-continual.csv"
SPIN, QUANTILES = ["iter1", "iter2", "iter3"], (0.9, 0.7, 0.5)
TILE, GAP, LINE = 224, 8, 26
"""Of the picture, in pixels: side of an image, distance between two, height of a line of text."""
WINS, WINS_PSNR = ("win_rate_over_base", "average"), ("win_rate_over_base", "oracle_psnr")
SCORE, PSNR, OVER_DPO = ("mean", "average"), ("mean", "oracle_psnr"), ("win_rate_over_dpo", "average")
BRIEF = {"Winning rate over the base, %": WINS, "Oracle's PSNR, dB": PSNR, "Mean score": SCORE}
LONG = {**BRIEF, "PSNR wins over the base, %": WINS_PSNR, "Winning rate over Diffusion-DPO, %": OVER_DPO}


class Study:
    """Every seed's numbers, and where they were made."""

    def __init__(self, record: Path) -> None:
        self.about, self.frame = read_json(record), pd.read_csv(record.with_suffix(".csv"))
        self.models = list(self.frame["model"].unique())

    def of(self, column: tuple[str, str]) -> pd.DataFrame:
        """One number a seed (rows) and model (columns)."""
        rows = self.frame[self.frame["scorer"] == column[1]]
        return rows.pivot(index="seed", columns="model", values=column[0])

    def table(self, models: list[str], columns: dict[str, tuple[str, str]]) -> str:
        """Markdown, one row a model: mean over seeds (lowest to highest)."""
        lines = [f"| Model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        for model in models:
            cells = [_cell(self.of(column)[model].dropna(), column) for column in columns.values()]
            lines.append(f"| {' | '.join([model_label(model), *cells])} |")
        return "\n".join(lines)


def _cell(values: "pd.Series[float]", column: tuple[str, str]) -> str:
    scale, digits = (1, 2 if column == PSNR else 3) if column[0] == "mean" else (100, 1)
    if values.empty:  # a model is not compared with itself
        return ""
    mean, low, high = (f"{scale * x:.{digits}f}" for x in (values.mean(), values.min(), values.max()))
    return f"{mean} ({low} to {high})"


def what_holds(study: Study) -> dict[str, bool]:
    """Sentences that speak for the method, and whether they follow."""
    wins, wins_psnr, score, psnr = map(study.of, (WINS, WINS_PSNR, SCORE, PSNR))
    others, path = [name for name in study.models if name[:3] in ("sft", "dpo")], psnr[["base", *SPIN]].mean()
    low, low_psnr = wins[SPIN].min().min(), wins_psnr[SPIN].min().min()
    least, best = score[SPIN].min().min(), score[others].max().max()
    beats = f"""In every seed every iteration wins most prompts over the base: at least {low:.1%} on the average of the
        four scorers, at least {low_psnr:.1%} by the oracle's PSNR."""
    rises = f"""The PSNR, averaged over the seeds, rises with every iteration, from the base's {path.iloc[0]:.2f} dB to
        {path.iloc[1]:.2f}, {path.iloc[2]:.2f} and {path.iloc[3]:.2f}."""
    above = f"""In every seed every iteration's mean score (at least {least:.3f}) is above that of every setting of SFT and
        Diffusion-DPO (at most {best:.3f}). So is the PSNR of iterations 2 and 3; that of iteration 1 is below one of them
        in {(psnr["iter1"] < psnr[others].max(axis=1)).sum()} of {len(psnr)} seeds."""
    both = bool(least > best and psnr[SPIN[1:]].min().min() > psnr[others].max().max())
    return {beats: min(low, low_psnr) > 0.5, rises: path.is_monotonic_increasing, above: both}


def what_does_not(study: Study, curves: Path) -> dict[str, bool]:
    """Sentences that speak against it or ask for care, and whether they follow."""
    wins, score, clip = study.of(WINS), study.of(SCORE), study.of(("win_rate_over_base", "clip"))
    rates, small, wide = wins[SPIN].mean(), wins["dpo_low_lr"].mean(), wins["dpo_beta500"]
    rate = f"""The winning rate over the base does not rise with the iterations, unlike in the paper:
        {", ".join(f"{each:.1%}" for each in rates)}. Diffusion-DPO at the smallest rate wins nearly as often
        ({small:.1%}), by smaller steps (mean score {score["dpo_low_lr"].mean():.3f})."""
    varies = f"""Diffusion-DPO varies more from seed to seed: at beta 500 it wins {wide.min():.0%} to {wide.max():.0%}."""
    steps = pd.read_csv(CONTINUAL).query("scorer == 'average' and step > 0")
    stay, move = (steps[steps["path"] == path].set_index("step") for path in ("stay", "switch"))
    going = f"""Moving to iteration 2 is not shown to beat going on inside iteration 1: after as many updates its mean score is
        higher at {int((move["mean"] > stay["mean"]).sum())} of {len(stay)} steps measured; at best staying has
        {stay["mean"].max():.3f}, moving {move["mean"].max():.3f}. These are means without a paired interval, of one seed on
        [validation prompts](../benchmarks/results/toy-continual.md)."""
    lost = clip[[*SPIN, *(name for name in study.models if "dpo" in name), "clean"]]
    blind = f"""By the CLIP score every iteration, every setting of Diffusion-DPO and even clean renderings lose most prompts
        to the base (they win {lost.min().min():.0%} to {lost.max().max():.0%})."""
    ends = [pd.read_csv(curves / f"{name}.csv").tail(16).mean() for name in SPIN]
    errors = """In the last 16 updates of each iteration of the demo the player's error on real images is above its
        reference's, and that on opponents further above: self-play moves by telling them apart."""
    ceiling = "No model's mean score is above that of clean renderings: by it no scorer is over-optimised."
    return {
        rate: rates.is_monotonic_decreasing and bool(rates["iter3"] < small < rates["iter1"]),
        going: bool(move["mean"].max() < stay["mean"].max()),
        varies: wide.std() > 5 * wins[SPIN].std().max(),
        blind: lost.max().max() < 0.5,
        errors: all(0 < end["error_real_change"] < end["error_gen_change"] for end in ends),
        ceiling: bool((score.drop(columns="clean").max(axis=1) < score["clean"]).all()),
    }


def listed(claims: dict[str, bool]) -> str:
    """Sentences as a list; raises `EvaluationError` for one that does not follow."""
    if not all(claims.values()):
        raise EvaluationError(f"the results must bear out every sentence, but it is {claims}.")
    return "\n".join(fill(f"- {' '.join(text.split())}", 118, subsequent_indent="  ") for text in claims)


def results(study: Study, record: Path, outputs: Path) -> dict[str, str]:
    """The blocks of docs/results.md."""
    about, tables = (
        study.about,
        ("head_to_head", "winrate_over_base", "winrate_over_dpo", "gap_closed", "mean"),
    )
    seeds, demo = " ".join(map(str, about["seeds"])), revision_line(outputs.resolve().parent)
    command = f"python -m benchmarks.study --params {about['params']} --seeds {seeds} --work FOLDER"
    shown = "\n".join((outputs / f"tables/test/{name}.md").read_text("utf-8") for name in tables)
    command += f" --out benchmarks/results/{record.stem}\n\nCommit {about['commit']}; {about['machine']}."
    return {
        "study": f"    {command}\n\n{study.table(study.models, LONG)}",
        "what holds": listed(what_holds(study)),
        "what does not": listed(what_does_not(study, outputs / "curves")),
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
    study, docs = Study(given.study), ROOT / "docs"
    models = {name: drawn(given.outputs, name) for name in ("base", "dpo", "iter3", "clean")}
    prompts, rule = chosen_prompts(models["base"], models["iter3"])
    blocks = {"caption": f"*{rule}*", "table": study.table(["base", "sft", "dpo", "iter1", "iter3"], BRIEF)}
    fill_in(docs / "results.md", results(study, given.study, given.outputs))
    fill_in(ROOT / "README.md", blocks)
    draw_picture(models, prompts).save(docs / "images/readme.png", optimize=True)
    shutil.copyfile(given.outputs / "report" / "grid.png", docs / "images/grid.png")
    print(f"{rule}\nThey are {', '.join(prompts)}. Filled README.md and docs/results.md, drew docs/images.")


if __name__ == "__main__":
    main()
