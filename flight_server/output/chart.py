"""A chart of points, of which some make a line: for a terminal, or as a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Point = tuple[float, float]
_TICKS = (1.0, 2.0, 5.0)
_LINE, _OTHER, _CHOSEN = "●", "·", "◆"


@dataclass(frozen=True, slots=True)
class Chart:
    """Points by two measures, the horizontal one in powers of ten.

    Attributes:
        title: What it shows.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        points: All points.
        line: Those that are joined, from left to right.
        chosen: One that stands out.
    """

    title: str
    across: str
    up: str
    points: Sequence[Point]
    line: Sequence[Point]
    chosen: Point | None = None

    @property
    def _bounds(self) -> tuple[float, float, float, float]:
        """Least and greatest of both measures, with room around; the horizontal ones as logarithms."""
        across, up = [math.log10(x) for x, _ in self.points], [y for _, y in self.points]
        room_x = 0.04 * ((max(across) - min(across)) or 1)
        room_y = 0.06 * ((max(up) - min(up)) or 0.1)
        return min(across) - room_x, max(across) + room_x, min(up) - room_y, max(up) + room_y

    def _placed(self, point: Point, width: int, height: int) -> tuple[int, int]:
        """Where a point is, from the left and from the top."""
        left, right, low, high = self._bounds
        x = (math.log10(point[0]) - left) / (right - left) * (width - 1)
        y = (high - point[1]) / (high - low) * (height - 1)
        return round(x), round(y)

    def _ticks_across(self) -> list[float]:
        left, right, _, _ = self._bounds
        powers = range(math.floor(left), math.ceil(right) + 1)
        return [t * 10**p for p in powers for t in _TICKS if left <= math.log10(t * 10**p) <= right]

    def _ticks_up(self, most: int) -> list[float]:
        _, _, low, high = self._bounds
        rough = (high - low) / max(1, most)
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * t for t in (*_TICKS, 10.0) if power * t >= rough)
        return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def text(self, width: int, height: int) -> str:
        """As lines of characters.

        Args:
            width: Most characters of a line.
            height: Lines of the field of points, without title and axes.
        """
        labels = {self._placed((1.0, y), 2, height)[1]: f"{y:g}" for y in self._ticks_up(height // 3)}
        margin = max(map(len, labels.values()), default=0)
        inside = max(20, width - margin - 3)
        field = [[" "] * inside for _ in range(height)]
        for point in (*self.points, *self.line, *([self.chosen] if self.chosen else [])):
            x, y = self._placed(point, inside, height)
            field[y][x] = _CHOSEN if point == self.chosen else _LINE if point in self.line else _OTHER
        lines = [self.title, self.up]
        for number, row in enumerate(field):
            mark = "┤" if number in labels else "│"
            lines.append(f"{labels.get(number, ''):>{margin}} {mark}{''.join(row).rstrip()}")
        axis, under = ["─"] * inside, [" "] * (inside + 8)
        free = 0
        for tick in self._ticks_across():
            x, label = self._placed((tick, 0), inside, height)[0], f"{tick:g}"
            begin = max(0, x - len(label) // 2)
            if begin >= free:
                axis[x] = "┬"
                under[begin : begin + len(label)] = label
                free = begin + len(label) + 1
        lines.append(f"{'':>{margin}} └{''.join(axis)}")
        lines.append(f"{'':>{margin}}  {''.join(under).rstrip()}  {self.across}")
        return "\n".join(line.rstrip() for line in lines)

    def save_png(self, path: Path, width: int = 960, height: int = 600) -> None:
        """Write it as a PNG, for which Pillow is needed.

        Raises:
            ImportError: It is not installed.
            OSError: The file cannot be written.
        """
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)
        small, large = ImageFont.load_default(14), ImageFont.load_default(18)
        left, top, right, bottom = 80, 60, width - 30, height - 60
        inside = (right - left + 1, bottom - top + 1)

        def at(point: Point) -> tuple[int, int]:
            x, y = self._placed(point, *inside)
            return left + x, top + y

        low = self._bounds[2]
        for tick in self._ticks_across():
            x = at((tick, low))[0]
            draw.line((x, top, x, bottom), "#e4e4e4")
            draw.text((x, bottom + 8), f"{tick:g}", "#333333", small, anchor="ma")
        for tick in self._ticks_up(10):
            y = at((self.points[0][0], tick))[1]
            draw.line((left, y, right, y), "#e4e4e4")
            draw.text((left - 8, y), f"{tick:g}", "#333333", small, anchor="rm")
        draw.rectangle((left, top, right, bottom), outline="#333333")
        draw.text((left, 18), self.title, "black", large)
        draw.text(((left + right) // 2, height - 12), self.across, "#333333", small, anchor="mb")
        draw.text((left, top - 6), self.up, "#333333", small, anchor="lb")
        if len(self.line) > 1:
            draw.line([at(point) for point in self.line], "#1f6feb", 2)
        for point in self.points:
            _dot(
                draw,
                at(point),
                5 if point in self.line else 3,
                "#1f6feb" if point in self.line else "#999999",
            )
        if self.chosen is not None:
            _dot(draw, at(self.chosen), 8, "#d73a49")
        image.save(path, "PNG")


def _dot(draw: Any, at: tuple[int, int], radius: int, colour: str) -> None:
    x, y = at
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
