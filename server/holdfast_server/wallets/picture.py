"""The picture around coins in a PNG: our own, or the caller's with a strip below it. Both state amount and tag.

Pillow is imported where something is drawn, since most processes never draw.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_server.errors import InvalidArgument, invalid_field
from holdfast_server.wallets import coin_png
from holdfast_server.wallets.amounts import decimal_text

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["BUILT_IN_PICTURE", "MAX_PIXELS", "MAX_SIDE", "MAX_TEMPLATE", "Picture"]

#: Largest template, in bytes.
MAX_TEMPLATE = 16 << 20
#: And in pixels, altogether and a side.
MAX_PIXELS = 32 << 20
MAX_SIDE = 16_384

_FIELD = "png_template"

_Color = tuple[int, int, int]
_PAPER: _Color = (246, 243, 232)
_PANEL: _Color = (252, 250, 244)
_INK: _Color = (16, 52, 62)
_TEAL: _Color = (38, 118, 122)
_PALE_TEAL: _Color = (176, 207, 200)
_COPPER: _Color = (178, 102, 52)
_PALE_COPPER: _Color = (228, 200, 168)

_WIDTH, _HEIGHT = 1000, 560
_SCALE = 2  # drawn larger and shrunk, which makes thin lines smooth
# Radius, swing, petals and color of the braided rings around the keyhole, and how many strands each has.
_RINGS = ((152, 20, 18, _PALE_COPPER), (128, 26, 12, _COPPER), (98, 24, 9, _TEAL), (72, 16, 8, _INK))
_STRANDS = 5

# The colors of the finished picture: each ink thinned out towards the paper in so many steps.
_TINTS = 4
_TITLE = "CloudCoin"

# Narrower templates are widened to what the longest amount needs.
_MIN_WIDTH = 480


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to carry coins. `template` is the content of a PNG, None for our own picture; `tag` is shown."""

    tag: str = ""
    template: bytes | None = None

    def check(self) -> None:
        """Raise InvalidArgument/INVALID_FIELD of `png_template` for a template that cannot carry coins: no PNG, a
        damaged or too large one, or one that carries coins already, which would then be there twice."""
        if self.template is not None:
            _open(self.template).close()

    def draw(self, amount: int) -> bytes:
        """The PNG, without coins, for an amount in units of 1e-8. Raises as `check`."""
        text = decimal_text(amount)
        image = _note(text, self.tag) if self.template is None else _captioned(_open(self.template), text, self.tag)
        target = io.BytesIO()
        image.save(target, "PNG", optimize=self.template is None)
        return target.getvalue()


BUILT_IN_PICTURE = Picture()


def _open(template: bytes) -> Image.Image:
    """The first frame, decoded, as RGB or RGBA. Nothing is decoded before its size is known."""
    from PIL import Image

    if len(template) > MAX_TEMPLATE:
        raise _refused(f"has {len(template)} bytes, more than {MAX_TEMPLATE}")
    if not template.startswith(coin_png.MAGIC) or len(template) < 24:
        raise _refused("is no PNG")
    try:
        carries_coins = bool(coin_png.coin_data(template))
    except ValueError as error:
        raise _refused(f"cannot be used: {error}") from None
    if carries_coins:
        raise _refused("carries coins already; they would be in circulation twice")
    width, height = struct.unpack_from(">II", template, 16)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise _refused(f"has {width} x {height} pixels, more than {MAX_SIDE} a side or {MAX_PIXELS} in all")
    try:
        with Image.open(io.BytesIO(template), formats=["PNG"]) as image:
            image.load()
            return _colored(image)
    except Exception as error:  # noqa: BLE001  decoders raise many kinds for damaged pictures
        raise _refused(f"cannot be decoded: {type(error).__name__}") from None


def _colored(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, of which the upper 8 are shown
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def _refused(why: str) -> InvalidArgument:
    return invalid_field(_FIELD, why)


def _captioned(image: Image.Image, amount: str, tag: str) -> Image.Image:
    """The template with a strip below it, so that nothing of it is covered; narrow ones get paper at their sides.

    The tag stands beside the amount if there is room, else below it.
    """
    from PIL import Image, ImageDraw

    width = max(image.width, _MIN_WIDTH)
    row = min(max(round(width * 0.11), 56), 220)
    margin = row // 4
    space = width - 2 * margin
    shown = f"{amount} {_TITLE}"
    measure = ImageDraw.Draw(image)
    wide = measure.textlength(shown, _font(row * 0.42)) + measure.textlength(tag, _font(row * 0.3)) + 2 * margin
    beside = not tag or wide <= space
    canvas = Image.new(image.mode, (width, image.height + (row if beside else row * 2)), _PAPER)
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    top = image.height
    draw.rectangle((0, top, width, top + max(row // 28, 2)), fill=_TEAL)
    center = top + row * 0.54
    draw.text((margin, center), shown, fill=_INK, font=_fitting(draw, shown, space, row * 0.42), anchor="lm")
    if beside:
        draw.text((width - margin, center), tag, fill=_COPPER, font=_font(row * 0.3), anchor="rm")
    else:
        _tag(draw, tag, (margin, center + row * 0.9), space, row * 0.3)
    return canvas


def _note(amount: str, tag: str) -> Image.Image:
    """Our own picture: a note of fine curves, drawn here, with a calm field for the text."""
    from PIL import Image, ImageDraw

    scale = _SCALE
    image = Image.new("RGB", (_WIDTH * scale, _HEIGHT * scale), _PAPER)
    draw = ImageDraw.Draw(image)
    _background(draw, scale)
    _frame(draw, scale)
    _medallion(draw, scale, (236, 280))
    image = image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
    _lettering(ImageDraw.Draw(image), amount, tag)
    return image.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Few colors, chosen and not found: small files, and lines that stay smooth."""
    from PIL import Image

    tints = [
        paper + (part - paper) * tint // _TINTS
        for ink in (_INK, _TEAL, _COPPER, _PALE_TEAL, _PALE_COPPER)
        for tint in range(1, _TINTS + 1)
        for paper, part in zip(_PANEL, ink, strict=True)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*_PAPER, *_PANEL, *tints])
    return palette


def _background(draw: ImageDraw.ImageDraw, scale: int) -> None:
    """Waves across the whole note, as banknotes have them: their phases drift apart and meet again."""
    steps = range(0, _WIDTH + 8, 8)
    for line in range(26):
        base = 24 + line * (_HEIGHT - 48) / 25
        points = [
            (
                x * scale,
                (base + 13 * math.sin(x / 74 + line * 0.19) + 7 * math.sin(x / 31 - line * 0.33)) * scale,
            )
            for x in steps
        ]
        draw.line(points, fill=_PALE_TEAL if line % 3 else _PALE_COPPER, width=scale, joint="curve")


def _frame(draw: ImageDraw.ImageDraw, scale: int) -> None:
    """A border of braided waves."""

    def box(inset: float) -> tuple[float, float, float, float]:
        return (inset * scale, inset * scale, (_WIDTH - inset) * scale, (_HEIGHT - inset) * scale)

    draw.rectangle(box(0), outline=_PAPER, width=14 * scale)
    for y in (31, _HEIGHT - 31):
        draw.rectangle((14 * scale, (y - 15) * scale, (_WIDTH - 14) * scale, (y + 15) * scale), fill=_PANEL)
        for strand in range(4):
            phase = strand * math.tau / 4
            points = [
                (x * scale, (y + 12 * math.sin(x * math.tau / 57 + phase)) * scale) for x in range(16, _WIDTH - 14, 2)
            ]
            draw.line(points, fill=_TEAL if strand % 2 else _COPPER, width=scale, joint="curve")
        for edge in (-15, 15):
            draw.line(((14 * scale, (y + edge) * scale), ((_WIDTH - 14) * scale, (y + edge) * scale)), _INK, scale)
    draw.rectangle(box(14), outline=_INK, width=3 * scale)


def _medallion(draw: ImageDraw.ImageDraw, scale: int, center: tuple[float, float]) -> None:
    """Rosettes around a keyhole."""
    x, y = center

    def disc(radius: float, **style: object) -> None:
        box = ((x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale)
        draw.ellipse(box, **style)  # type: ignore[arg-type]

    disc(178, fill=_PANEL, outline=_INK, width=2 * scale)
    for radius, swing, petals, color in _RINGS:
        for strand in range(_STRANDS):
            points = _wave_around(x, y, radius, swing, petals, strand * math.tau / _STRANDS)
            draw.line([(a * scale, b * scale) for a, b in points], fill=color, width=scale, joint="curve")
    disc(52, fill=_INK)
    disc(47, outline=_PALE_COPPER, width=2 * scale)
    draw.ellipse(((x - 16) * scale, (y - 27) * scale, (x + 16) * scale, (y + 5) * scale), fill=_PANEL)
    foot = [(x - 7, y - 4), (x + 7, y - 4), (x + 15, y + 29), (x - 15, y + 29)]
    draw.polygon([(a * scale, b * scale) for a, b in foot], fill=_PANEL)


def _wave_around(
    x: float, y: float, radius: float, swing: float, petals: int, phase: float
) -> Iterator[tuple[float, float]]:
    for step in range(721):
        angle = step * math.tau / 720
        reach = radius + swing * math.sin(petals * angle + phase)
        yield x + reach * math.cos(angle), y + reach * math.sin(angle)


def _lettering(draw: ImageDraw.ImageDraw, amount: str, tag: str) -> None:
    left, right = 462, 944
    draw.rounded_rectangle((left - 18, 112, right + 18, 448), 16, fill=_PANEL, outline=_TEAL, width=2)
    space = right - left
    draw.text((left, 166), _TITLE.upper(), fill=_TEAL, font=_font(34), anchor="lm")
    draw.text((left, 262), amount, fill=_INK, font=_fitting(draw, amount, space, 104), anchor="lm")
    draw.line((left, 338, right, 338), fill=_COPPER, width=2)
    note = "Coins are inside this file: who has it can spend them."
    if tag:
        _tag(draw, tag, (left, 376), space, 32)
    draw.text((left, 422 if tag else 392), note, fill=_TEAL, font=_font(18), anchor="lm")


def _tag(draw: ImageDraw.ImageDraw, tag: str, at: tuple[float, float], space: float, size: float) -> None:
    """One line, or two where one would be too small to read."""
    font = _fitting(draw, tag, space, size)
    if font.size >= min(size, 16):
        draw.text(at, tag, fill=_COPPER, font=font, anchor="lm")
        return
    half = (len(tag) + 1) // 2
    lines = tag[:half], tag[half:]
    font = min((_fitting(draw, line, space, size) for line in lines), key=lambda font: font.size)
    for line, offset in zip(lines, (-0.6, 0.6), strict=True):
        draw.text((at[0], at[1] + offset * font.size), line, fill=_COPPER, font=font, anchor="lm")


def _fitting(draw: ImageDraw.ImageDraw, text: str, space: float, size: float) -> ImageFont.FreeTypeFont:
    """The font in which the text is at most `size` high and `space` wide, in pixels; never below 8."""
    width = draw.textlength(text, _font(100))
    return _font(max(min(size, 100 * space / max(width, 1)), 8))


def _font(size: float) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
