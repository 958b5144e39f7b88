"""Small charts as inline SVG: no script, colours by the page's CSS variables, a title for readers
that do not see them.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SIDE, LEFT, BOTTOM = 260, 44, 40
"""Of the reliability diagram: side of its square, and room for the axes, in SVG's units."""


def bar(value: float | None, kind: str = "main", scale: float = 100) -> str:
    """A horizontal bar of a value from 0 to ``scale``, which stands beside it as a number."""
    width = 0 if value is None else max(0.0, min(100.0, 100 * value / scale))
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8" rx="1"/>'
        f'<rect class="{kind}" width="{width:.2f}" height="8" rx="1"/></svg>'
    )


def shares(parts: Sequence[tuple[str, str, float | None]], title: str) -> str:
    """One bar of parts that add up to 100: (label, kind, percent), those with room labelled."""
    drawn, x = [], 0.0
    for label, kind, value in parts:
        width = value or 0.0
        drawn.append(f'<rect class="{kind}" x="{x:.2f}%" width="{width:.2f}%" height="34"/>')
        if width >= 8:
            text = f"{label} {width:.0f} %" if width > 1.4 * len(label) + 8 else f"{width:.0f} %"
            place = f'x="{x:.2f}%" dx="10" y="22"'
            drawn.append(f'<text class="on-{kind}" {place}>{escape(text)}</text>')
        x += width
    return f'<svg class="shares" role="img"><title>{escape(title)}</title>{"".join(drawn)}</svg>'


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share of right pixels over confidence, by bin, beside the diagonal of a calibrated system;
    below it how many of the pixels each bin has.
    """
    most = max((row["pixels"] for row in bins), default=0) or 1
    step, drawn = SIDE / len(bins), []
    for k, row in enumerate(bins):
        x = LEFT + k * step
        count = 46 * row["pixels"] / most
        drawn.append(
            f'<rect class="soft" x="{x + 1:.1f}" y="{SIDE + 84 - count:.1f}" '
            f'width="{step - 2:.1f}" height="{count:.1f}"/>'
        )
        if row["right"] is None:
            continue
        height, ideal = SIDE * row["right"] / 100, SIDE * row["confidence"] / 100
        low, high = sorted((height, ideal))
        drawn.append(
            f'<rect class="main" x="{x + 1:.1f}" y="{SIDE - height + 10:.1f}" '
            f'width="{step - 2:.1f}" height="{height:.1f}"/>'
            f'<rect class="gap" x="{x + 1:.1f}" y="{SIDE - high + 10:.1f}" '
            f'width="{step - 2:.1f}" height="{high - low:.1f}"/>'
        )
    lines = []
    for share in (0, 25, 50, 75, 100):
        y, x = SIDE - SIDE * share / 100 + 10, LEFT + SIDE * share / 100
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share}</text>'
            f'<text x="{x:.1f}" y="{SIDE + 102}" text-anchor="middle">{share}</text>'
        )
    diagonal = f"M{LEFT} {SIDE + 10}L{LEFT + SIDE} 10"
    title = "Reliability: share of right pixels over confidence, by bin; the table has the figures"
    return (
        f'<svg class="plot" viewBox="0 0 {LEFT + SIDE + 16} {SIDE + 84 + BOTTOM}" role="img">'
        f"<title>{title}</title>{''.join(lines)}{''.join(drawn)}"
        f'<path class="ideal" d="{diagonal}"/>'
        f'<text transform="translate(11 {SIDE / 2 + 10}) rotate(-90)" text-anchor="middle">'
        "right pixels, %</text>"
        f'<text x="{LEFT + SIDE / 2}" y="{SIDE + 120}" text-anchor="middle">confidence, %</text>'
        f'<text x="{LEFT}" y="{SIDE + 34}">pixels by confidence</text></svg>'
    )
