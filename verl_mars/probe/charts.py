"""Bars with intervals as inline SVG: no script, no network, text that can be selected and read aloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from verl_mars.probe.statistics import Estimate

_LABEL, _PLOT, _VALUE = 200, 280, 160  # pixels: names, bars, numbers
_ROW, _TOP, _BOTTOM = 26, 8, 24
_INK, _MUTED, _GRID = "#1c1c1e", "#6e6e74", "#dedee2"
_LONGEST_LABEL = 28


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    estimate: Estimate
    color: str
    text: str
    """What is written beside it."""


def bars(title: str, rows: Sequence[Bar], *, low: float, high: float, percent: bool = True) -> str:
    """Horizontal bars from 0, each with its interval as a line; ``low`` <= 0 <= ``high`` are the ends of the axis."""
    width, height = _LABEL + _PLOT + _VALUE, _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _LABEL + _PLOT * (min(max(value, low), high) - low) / (high - low)

    parts = [
        f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
    ]
    base = _TOP + _ROW * len(rows)
    for tick in _ticks(low, high):
        words = f"{100 * tick:.0f}{'%' if percent else ''}".replace("-", "\u2212")
        weight = 1.5 if tick == 0 else 1
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{base}" stroke="{_GRID}" '
            f'stroke-width="{weight}"/><text x="{x(tick):.1f}" y="{base + 16}" text-anchor="middle" font-size="11" '
            f'fill="{_MUTED}">{words}</text>'
        )
    for number, row in enumerate(rows):
        top, estimate = _TOP + _ROW * number, row.estimate
        middle = top + _ROW / 2
        label = row.label if len(row.label) <= _LONGEST_LABEL else row.label[: _LONGEST_LABEL - 1] + "\u2026"
        start, end = sorted((x(0.0), x(estimate.value)))
        parts.append(
            f'<text x="{_LABEL - 10}" y="{middle + 4}" text-anchor="end" font-size="13" fill="{_INK}">{escape(label)}'
            f'</text><rect x="{start:.1f}" y="{top + 5}" width="{max(end - start, 1):.1f}" height="{_ROW - 10}" rx="2" '
            f'fill="{row.color}"/>'
        )
        if estimate.low is not None and estimate.high is not None:
            left, right = x(estimate.low), x(estimate.high)
            parts.append(
                f'<path d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8" '
                f'stroke="{_INK}" stroke-width="1.3" fill="none"/>'
            )
        parts.append(
            f'<text x="{_LABEL + _PLOT + 10}" y="{middle + 4}" font-size="12" fill="{_INK}">{escape(row.text)}</text>'
        )
    return "".join(parts) + "</svg>"


def ends(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of an axis that holds all of these, and 0, rounded outwards to whole steps."""
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None]
    least, most = min([0.0, *values]), max([0.0, *values])
    step = _step(most - least)
    return step * _floor(least / step), max(step * -_floor(-most / step), step)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [round(step * i, 10) for i in range(-_floor(-low / step), _floor(high / step) + 1)]


def _step(span: float) -> float:
    return next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if span <= 5 * step), 0.25 if span <= 1.25 else 0.5)


def _floor(value: float) -> int:
    return int(value // 1) if abs(value - round(value)) > 1e-9 else round(value)
