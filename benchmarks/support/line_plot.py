"""Curves as one SVG file for the docs: no package, no script, readable on light and dark pages."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 96
#: Okabe and Ito 2008: told apart with every kind of colour vision.
COLOURS = ("#666666", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
LEGEND_COLUMNS = 2


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: In the legend; empty for a further curve of the same kind.
        colour: Index into ``COLOURS``.
        points: (x, y).
        dashed: Whether the line is.
    """

    label: str
    colour: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False

    @property
    def stroke(self) -> str:
        """Its colour and dashes as SVG."""
        return f'stroke="{COLOURS[self.colour]}"' + (' stroke-dasharray="6 4"' if self.dashed else "")


def line_plot(lines: Sequence[Line], title: str, x_label: str, y_label: str, y_range: tuple[float, float]) -> str:
    """Draw curves from x = 0; what lies outside of the range of y is cut off.

    Args:
        lines: What to draw.
        title: Above the plot.
        x_label: Below it.
        y_label: Beside it.
        y_range: Lowest and highest y.
    """
    x_end = max(x for line in lines for x, _ in line.points)
    low, high = y_range

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / x_end * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        _text(WIDTH / 2, 24, title, anchor="middle", size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, x_label, anchor="middle"),
        f'<g transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
        f"{_text(0, 0, y_label, anchor='middle')}</g>",
    ]
    for tick in ticks(low, high):
        x, y = place(0, tick)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(x - 8, y + 4, f"{tick:g}", anchor="end"))
    for tick in ticks(0, x_end):
        x, y = place(tick, low)
        parts.append(f'<path d="M{x:.1f} {y:.1f}v5" stroke="#666666"/>')
        parts.append(_text(x, y + 19, f"{tick:g}", anchor="middle"))
    for line in lines:
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in line.points)
        parts.append(
            f'<path d="M{path}" fill="none" {line.stroke} stroke-width="1.6" opacity="0.8" clip-path="url(#plot)"/>'
        )
    labelled = [line for line in lines if line.label]
    for number, line in enumerate(labelled):
        x = LEFT + number % LEGEND_COLUMNS * (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS
        y = HEIGHT - BOTTOM + 62 + number // LEGEND_COLUMNS * 20
        parts.append(f'<path d="M{x:.1f} {y - 4}h24" {line.stroke} stroke-width="3"/>')
        parts.append(_text(x + 32, y, line.label))
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers that divide a range into about so many parts."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    escaped = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222222">{escaped}</text>'
