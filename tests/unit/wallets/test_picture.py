from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image, ImageChops

from holdfast_server.errors import InvalidArgument, Reason
from holdfast_server.wallets import coin_png
from holdfast_server.wallets.amounts import COIN, MAX_AMOUNT
from holdfast_server.wallets.picture import MAX_PIXELS, MAX_SIDE, MAX_TEMPLATE, Picture
from tests.coins import second_reader, second_writer


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=["PNG"])
    image.load()
    return image


def png(image: Image.Image, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG", **options)
    return target.getvalue()


def changed(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int] | None:
    """Where two pictures differ."""
    assert one.size == other.size
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox()


def of_size(width: int, height: int) -> bytes:
    """A picture that claims a size and has next to no pixels."""
    head = second_writer.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = second_writer.chunk(b"IDAT", zlib.compress(bytes(1000)))
    return second_writer.PNG_START + head + pixels + second_writer.chunk(b"IEND", b"")


def test_our_own_picture_is_small_whole_and_always_the_same():
    for tag, amount in (("", 1), ("W" * 64, MAX_AMOUNT)):
        content = Picture(tag).draw(amount)
        assert len(content) < 60_000
        assert opened(content).size == (1000, 560)
        assert second_reader.png_chunks(content)[0][1] == b"IHDR"
        assert coin_png.coin_data(content) == []
        assert content == Picture(tag).draw(amount)


def test_amount_and_tag_are_drawn_each_in_its_place():
    plain, other_amount, tagged = (
        opened(Picture(tag).draw(amount)) for tag, amount in (("", COIN), ("", 2 * COIN), ("rent", COIN))
    )
    left, top, right, bottom = changed(plain, other_amount)
    assert left > 440
    assert right < 960
    assert 180 < top < bottom < 338
    left, top, right, bottom = changed(plain, tagged)
    assert left > 440
    assert 338 < top < bottom < 448


def test_the_longest_amount_and_tag_stay_within_their_field():
    left, _top, right, bottom = changed(opened(Picture("").draw(1)), opened(Picture("W" * 64).draw(MAX_AMOUNT)))
    assert left > 444
    assert right < 962
    assert bottom < 448


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (700, 20)])
@pytest.mark.parametrize("tag", ["", "rent", "W" * 64])
def test_nothing_of_a_template_is_covered(size, tag):
    template = Image.effect_noise(size, 90).convert("RGB")
    image = opened(Picture(tag, png(template)).draw(MAX_AMOUNT))
    width = max(size[0], 480)
    left = (width - size[0]) // 2
    assert image.width == width
    assert changed(image.crop((left, 0, left + size[0], size[1])), template) is None
    strip = image.crop((0, size[1], width, image.height))
    assert 50 <= strip.height <= 440
    assert len(strip.convert("RGB").getcolors(1 << 24)) > 5


def test_the_strip_states_amount_and_tag():
    template = png(Image.new("RGB", (600, 50), "white"))
    plain, other_amount, tagged = (
        opened(Picture(tag, template).draw(amount)) for tag, amount in (("", COIN), ("", 7 * COIN), ("rent", COIN))
    )
    assert changed(plain, other_amount)[0] < 100
    assert changed(plain, tagged)[0] > 400


@pytest.mark.parametrize(
    ("mode", "options"),
    [("1", {}), ("L", {}), ("LA", {}), ("P", {}), ("P", {"transparency": 0}), ("RGB", {}), ("RGBA", {}), ("I;16", {})],
)
def test_templates_of_every_kind_of_pixels(mode, options):
    image = opened(
        Picture("tag", png(Image.new(mode, (50, 50)), **options) if options else png(Image.new(mode, (50, 50)))).draw(1)
    )
    transparent = mode in ("LA", "RGBA") or bool(options)
    assert image.mode == ("RGBA" if transparent else "RGB")
    assert image.getpixel((5, 60))[:3] != (0, 0, 0)


def test_sixteen_bits_of_grey_are_shown_by_their_upper_eight():
    image = opened(Picture("", png(Image.new("I;16", (480, 10), 0x8040))).draw(1))
    assert image.getpixel((5, 5)) == (128, 128, 128)


def test_an_animation_gives_its_first_picture():
    frames = [Image.new("RGB", (480, 10), color) for color in ("red", "blue")]
    image = opened(Picture("", png(frames[0], save_all=True, append_images=frames[1:])).draw(1))
    assert getattr(image, "n_frames", 1) == 1
    assert image.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (b"", "is no PNG"),
        (b"\xff\xd8\xff\xe0 a photograph", "is no PNG"),
        (coin_png.MAGIC, "is no PNG"),
        (coin_png.MAGIC + bytes(40), "header"),
        (second_writer.png(b"\x09\1\0\6"), "carries coins already"),
        (second_writer.png(b"", late=True), "carries coins already"),
        (second_writer.png() + second_writer.chunk(b"cLDc", b"x"), "cannot be used"),
        (second_writer.png()[:-8], "cannot be used"),
        (second_writer.png() + bytes(MAX_TEMPLATE), "bytes, more than"),
        (of_size(MAX_SIDE + 1, 1), "pixels"),
        (of_size(1, 2**31 - 1), "pixels"),
        (of_size(MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1), "pixels"),
        (of_size(0, 5), "pixels"),
        (of_size(5000, 5000), "cannot be decoded"),
    ],
)
def test_what_cannot_carry_coins_is_refused_by_name(template, why):
    for use in (Picture("", template).check, lambda: Picture("", template).draw(1)):
        with pytest.raises(InvalidArgument, match=why) as caught:
            use()
        assert caught.value.reason is Reason.INVALID_FIELD
        assert caught.value.violations[0].field == "png_template"


def test_a_good_template_passes_the_check():
    Picture("", second_writer.png()).check()
    Picture("tag").check()


def test_no_process_loads_pillow_before_it_draws():
    code = "import sys, holdfast_server.wallets.packing; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
