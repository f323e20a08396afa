"""A sheet to draw on that becomes an SVG or a PNG file, with nothing but Pillow."""

from __future__ import annotations

import io
from html import escape
from typing import Literal, Protocol

Anchor = Literal["start", "middle", "end"]

INK, GREY, FAINT, PAPER = "#222222", "#666666", "#d5d5d5", "#ffffff"


class Canvas(Protocol):
    """Coordinates are pixels from the top left; colours are #rrggbb."""

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
        """A straight line."""

    def disc(self, centre: tuple[float, float], radius: float, colour: str, tip: str) -> None:
        """A translucent disc; ``tip`` shows under the pointer where the format can."""

    def bar(self, corner: tuple[float, float], size: tuple[float, float], colour: str, tip: str) -> None:
        """A filled rectangle."""

    def text(
        self, at: tuple[float, float], text: str, size: float, anchor: Anchor = "start", colour: str = INK
    ) -> None:
        """One line of text; ``at`` is on its base line."""

    def data(self) -> bytes:
        """The file."""


class SvgCanvas:
    """Scalable vector graphics."""

    def __init__(self, width: int, height: int) -> None:
        size = f'width="{width}" height="{height}"'
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def disc(self, centre: tuple[float, float], radius: float, colour: str, tip: str) -> None:
        self._parts.append(
            f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.6" '
            f'stroke="{colour}"><title>{escape(tip)}</title></circle>'
        )

    def bar(self, corner: tuple[float, float], size: tuple[float, float], colour: str, tip: str) -> None:
        self._parts.append(
            f'<rect x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" '
            f'fill="{colour}"><title>{escape(tip)}</title></rect>'
        )

    def text(
        self, at: tuple[float, float], text: str, size: float, anchor: Anchor = "start", colour: str = INK
    ) -> None:
        self._parts.append(
            f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(text)}</text>"
        )

    def data(self) -> bytes:
        return "\n".join([*self._parts, "</svg>\n"]).encode()


class PngCanvas:
    """Pixels, two for each of the coordinates; drawn twice as large again, because Pillow's lines have hard edges."""

    _SCALE, _FINE = 2, 2

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self._unit = self._SCALE * self._FINE
        self._image = Image.new("RGB", (width * self._unit, height * self._unit), PAPER)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
        points = [tuple(value * self._unit for value in point) for point in (start, end)]
        self._draw.line(points, colour, max(1, round(width * self._unit)))

    def disc(self, centre: tuple[float, float], radius: float, colour: str, tip: str) -> None:  # noqa: ARG002
        (x, y), unit = centre, self._unit
        box = [(x - radius) * unit, (y - radius) * unit, (x + radius) * unit, (y + radius) * unit]
        self._draw.ellipse(box, f"{colour}99", colour, unit)

    def bar(self, corner: tuple[float, float], size: tuple[float, float], colour: str, tip: str) -> None:  # noqa: ARG002
        (x, y), unit = corner, self._unit
        self._draw.rectangle([x * unit, y * unit, (x + size[0]) * unit, (y + size[1]) * unit], colour)

    def text(
        self, at: tuple[float, float], text: str, size: float, anchor: Anchor = "start", colour: str = INK
    ) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size * self._unit)
        code = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        self._draw.text((at[0] * self._unit, at[1] * self._unit), text, colour, font, anchor=code)

    def data(self) -> bytes:
        from PIL import Image

        small = (self._image.width // self._FINE, self._image.height // self._FINE)
        file = io.BytesIO()
        self._image.resize(small, Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
        return file.getvalue()
