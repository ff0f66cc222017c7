"""Images as people have them: every mode and damage is either right or refused with a reason."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spin.data.images import prepare_image, resize_and_crop
from spin.data.stored import open_stored
from spin.errors import DataError
from spin.runtime.images import FORMATS, UnusableImageError, decode_rgb

SQUARE = [(32, 32)]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> Image.Image:
    return decode_rgb(io.BytesIO(data))


def gradient(size: tuple[int, int] = (40, 48)) -> Image.Image:
    rows = np.linspace(0, 255, size[1])[:, None, None]
    columns = np.linspace(255, 0, size[0])[None, :, None]
    return Image.fromarray(np.uint8((rows + columns * [1, 0.5, 0.2]) / 2), "RGB")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_and_not_clipped(kind: str) -> None:
    greys = np.array([[0, 257 * 7, 32768, 65535]], dtype=np.uint16)
    image = decoded(encoded(Image.fromarray(greys), kind))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 7, 128, 255]


@pytest.mark.parametrize(("mode", "reason"), [("F", "in floating point"), ("I", "of 32 bits a channel")])
def test_greys_without_a_known_white_are_refused(mode: str, reason: str) -> None:
    data = encoded(Image.fromarray(np.full((4, 4), 1e6, "float32" if mode == "F" else "int32")), "TIFF")
    with pytest.raises(UnusableImageError) as caught:
        decoded(data)
    assert caught.value.reason == reason


def test_transparency_of_every_kind_lies_over_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    data = [encoded(clear), encoded(Image.new("LA", (4, 4), (9, 0))), encoded(clear, "WEBP", lossless=True)]
    data += [encoded(palette, transparency=1), encoded(palette, "GIF", transparency=1)]
    assert [decoded(each).getpixel((0, 0)) for each in data] == [(255, 255, 255)] * 5
    (tmp_path / "clear.png").write_bytes(data[0])
    assert open_stored(tmp_path, "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_and_palette_keep_their_colours() -> None:
    image = decoded(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.array(image.getpixel((4, 4))) - (255, 0, 0)).max() < 6
    palette = Image.new("RGB", (8, 8), (12, 200, 77)).quantize()
    assert decoded(encoded(palette)).getpixel((4, 4)) == (12, 200, 77)


def test_rotation_by_exif_is_applied_before_the_size_is_recorded() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    prepared = prepare_image(encoded(Image.new("RGB", (80, 40)), "JPEG", exif=exif), SQUARE, "drop")
    assert (prepared.original_width, prepared.original_height) == (40, 80)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    red, _, blue = decoded(data).getpixel((8, 8))
    assert red > 200
    assert blue < 60


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "that are empty"),
        (b"not an image", "that do not decode"),
        (encoded(gradient(), "JPEG")[:400], "that do not decode"),
        (encoded(gradient())[:-100], "that do not decode"),
        (encoded(Image.new("RGB", (8, 40))), "smaller than 32 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "that do not decode"),
    ],
)
def test_what_cannot_be_used_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImageError) as caught:
        prepare_image(data, SQUARE, "drop")
    assert caught.value.reason == reason


def test_a_decompression_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusableImageError) as caught:
        decoded(encoded(gradient()))
    assert caught.value.reason == "too large to decode safely"


def test_a_strip_does_not_fill_the_memory_when_it_is_enlarged() -> None:
    with pytest.raises(UnusableImageError) as caught:
        prepare_image(encoded(Image.new("L", (60000, 1))), [(512, 512)], "upscale")
    assert caught.value.reason == "too long and narrow"


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = random.Random(0)
    for kind in FORMATS[:-1]:
        whole = encoded(gradient(), kind)
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 12)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                assert decoded(bytes(damaged[: rng.randint(1, len(damaged))])).mode == "RGB"
            except UnusableImageError:
                continue


@pytest.mark.parametrize("size", [(40, 48), (48, 41), (33, 32), (101, 37), (32, 32), (20, 25), (37, 101)])
def test_resize_and_crop_are_those_of_the_peers(size: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Resize
    from torchvision.transforms import InterpolationMode as Mode

    image = gradient(size)
    resized = Resize(32, Mode.BILINEAR)(image)
    square, top, left = resize_and_crop(image, 32, 32)
    assert square.tobytes() == CenterCrop(32)(resized).tobytes()
    assert (top, left) == (max(0, round((resized.height - 32) / 2)), max(0, round((resized.width - 32) / 2)))
    assert square.tobytes() == resized.crop((left, top, left + 32, top + 32)).tobytes()


def test_a_file_that_does_not_decode_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"torn")
    for name in ("torn.png", "missing.png"):
        with pytest.raises(DataError, match=rf"{name} must be an image file, but it does not decode"):
            open_stored(tmp_path, name)
