"""A bar chart as SVG, readable on light and dark pages, without a plotting library."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

_LEFT: Final = 470
_WIDTH: Final = 420
_ROW: Final = 26
_TOP: Final = 44


def bars(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Horizontal bars on a logarithmic scale.

    Args:
        title: above the chart.
        rows: label, median, lowest, highest; all above 0.
    """
    first = floor(log10(min(low for _, _, low, _ in rows)))
    last = max(ceil(log10(max(high for *_, high in rows))), first + 1)

    def place(value: float) -> float:
        return _LEFT + _WIDTH * (log10(value) - first) / (last - first)

    height = _TOP + _ROW * len(rows) + 30
    box, font = f"0 0 {_LEFT + _WIDTH + 80} {height}", 'font-family="sans-serif" font-size="12" fill="#777"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {font}>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for power in range(first, last + 1):
        at, bottom = place(10.0**power), _TOP + _ROW * len(rows)
        lines.append(f'<path d="M{at:.1f} {_TOP - 6}V{bottom}" stroke="#7775"/>')
        lines.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for index, (label, middle, low, high) in enumerate(rows):
        y = _TOP + _ROW * index
        end, colour = place(middle), "#2a78b8" if label.startswith("This project") else "#9aa5b1"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{y + 2}" width="{end - _LEFT:.1f}" height="16" fill="{colour}"/>',
            f'<path d="M{place(low):.1f} {y + 10}H{place(high):.1f}" stroke="#d9822b" stroke-width="3"/>',
            f'<text x="{max(end, place(high)) + 6:.1f}" y="{y + 14}">{middle:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
