"""A folder of images as people have them, with the broken kinds that data stages meet, and what becomes of each."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

USABLE = 30
NUMBERED = {"3_sks dog": 4, "1_a hill": 6, "2_both/below": 3}
"""Folder -> images in it; the first has no captions."""


def picture(seed: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """An image that no other seed gives."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(size)


def jpeg(seed: int, size: tuple[int, int] = (40, 48)) -> bytes:
    """An encoded image that no other seed gives."""
    stream = io.BytesIO()
    picture(seed, size).save(stream, format="JPEG")
    return stream.getvalue()


def write_mixed_folder(folder: Path) -> dict[str, int]:
    """Write 30 usable images of mixed kinds and 19 rows that are dropped; return the rows dropped by reason."""
    folder.mkdir(parents=True)
    rows = [{"file_name": name, "text": f"a picture of {name}"} for name in _write_usable(folder)]
    rows[0]["text"] = "long " * 200
    rows[1]["text"] = rows[2]["text"]  # two images of one caption are fine
    broken = {
        "empty.png": b"",
        "text.png": b"not an image",
        "truncated.jpg": jpeg(50)[:300],
        "tiny.jpg": jpeg(51, (8, 40)),
        "again.jpg": (folder / "00.jpg").read_bytes(),
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    (folder.parent / "secret.png").write_bytes(jpeg(52))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    outside = ("link.png", "../secret.png", str((folder.parent / "secret.png").resolve()))
    rows += [{"file_name": name, "text": "broken"} for name in [*broken, *outside, "missing.png", "00.jpg"]]
    for index, caption in enumerate((None, "", " \n", 5, ["a", "b"])):
        rows.append({"file_name": f"caption{index}.jpg", "text": caption})
        (folder / f"caption{index}.jpg").write_bytes(jpeg(60 + index))
    rows += [{"file_name": name, "text": "no file"} for name in (None, "\0.png", 7)]
    lines = [json.dumps(row) for row in rows]
    lines.append('{"file_name": "half.jpg", "text": "half a \\ud83d pair"}')
    (folder / "half.jpg").write_bytes(jpeg(70))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return {
        "that are empty": 1,
        "that do not decode": 2,
        "smaller than 32 pixels": 1,
        "that repeat an earlier image": 1,
        "outside the folder": 3,
        "listed but missing": 1,
        "listed twice": 1,
        "without a caption": 3,
        "with a caption that is not text": 2,
        "without a file name": 2,
        "with an impossible file name": 1,
    }


def _write_usable(folder: Path) -> list[str]:
    """29 files: eight formats and modes, an animation, a rotated photograph and a subfolder."""
    (folder / "below").mkdir()
    names = []
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
    for index in range(22):
        kind = kinds[index % len(kinds)]
        names.append(f"{index:02d}.{kind.lower().replace('jpeg', 'jpg')}")
        picture(index).save(folder / names[-1], format=kind)
    special = {
        "cmyk.jpg": picture(22).convert("CMYK"),
        "clear.png": picture(23).convert("RGBA"),
        "grey.png": picture(24).convert("LA"),
        "palette.png": picture(25).quantize(),
        "below/deep.png": Image.fromarray(np.arange(40 * 48, dtype=np.uint16).reshape(48, 40) * 30),
    }
    for name, image in special.items():
        image.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(27, (64, 40)).save(folder / "turned.jpg", exif=exif)
    frames = [picture(28), picture(29)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return [*names, *special, "turned.jpg", "moving.gif"]


def write_numbered(folder: Path) -> Path:
    """13 images in three numbered folders."""
    index = 0
    for name, count in NUMBERED.items():
        (folder / name).mkdir(parents=True)
        for _ in range(count):
            (folder / name / f"{index:02d}.jpg").write_bytes(jpeg(index))
            if name != "3_sks dog":
                (folder / name / f"{index:02d}.caption").write_text(f"tag {index}, on a hill")
            index += 1
    return folder
