"""Draw one training step of MARS: ``python docs/_site/step_figure.py > docs/images/step.svg``."""

from html import escape

WIDTH, HEIGHT = 1000, 400
INK, QUIET, LINE = "#1f2430", "#5d6472", "#8a92a3"
FUSED, MONO, VERL = "#dfe3fb", "#fdeccf", "#eef0f4"
SOURCES = {"RGB": "#6aa7e8", "infrared": "#e88a6a"}

Box = tuple[int, int, int, int]


def text(x: float, y: float, words: str, size: int = 15, fill: str = INK, anchor: str = "middle", **more: str) -> str:
    """A line of text; ``more`` are attributes with ``_`` for ``-``."""
    rest = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{rest}>{escape(words)}</text>'


def box(place: Box, fill: str, *lines: str, stroke: str = LINE) -> str:
    """A rounded box with centred lines, the first of them in bold."""
    x, y, width, height = place
    top = y + height / 2 - 10 * (len(lines) - 1) + 5
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{stroke}"/>']
    for number, words in enumerate(lines):
        style = {"font_weight": "600"} if number == 0 else {}
        fill_of_line = INK if number == 0 else QUIET
        parts.append(text(x + width / 2, top + 20 * number, words, 15 if number == 0 else 13, fill_of_line, **style))
    return "".join(parts)


def arrow(x1: int, y1: int, x2: int, y2: int, dashed: bool = False) -> str:
    """A line with an arrow head, level at both ends."""
    middle = (x1 + x2) / 2
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    path = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.4"{dash} marker-end="url(#head)"/>'


def tile(x: int, y: int, source: str) -> str:
    """A small picture that stands for a source."""
    return f'<rect x="{x}" y="{y}" width="16" height="16" rx="3" fill="{SOURCES[source]}" stroke="{INK}"/>'


def draw() -> str:
    """The whole picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="One training step of MARS" font-family="system-ui, sans-serif">',
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for x, title in ((95, "prompt"), (345, "rollout, in one request"), (600, "rewards"), (860, "training")):
        parts.append(text(x, 36, title, 13, QUIET, letter_spacing="0.06em"))

    parts.append(box((25, 135, 140, 130), "#ffffff", "a row", "two sources,", "one question", ""))
    parts += [tile(73, 234, "RGB"), tile(101, 234, "infrared")]

    sessions = (
        (60, FUSED, "n fused sessions", "every source, sampled", ("RGB", "infrared")),
        (170, MONO, "mono session", "RGB alone, greedy", ("RGB",)),
        (280, MONO, "mono session", "infrared alone, greedy", ("infrared",)),
    )
    for y, fill, title, words, sources in sessions:
        parts += [arrow(165, 200, 238, y + 40), box((240, y, 210, 80), fill, title, words, "")]
        parts += [
            tile(345 - 14 * len(sources) + 28 * number + 6, y + 56, source) for number, source in enumerate(sources)
        ]
        parts.append(arrow(450, y + 40, 508, y + 40))

    parts.append(box((510, 60, 180, 80), FUSED, "r₁ … rₙ", "rewards"))
    parts.append(box((510, 170, 180, 80), MONO, "m (RGB)", "anchor"))
    parts.append(box((510, 280, 180, 80), MONO, "m (infrared)", "anchor"))

    parts.append(
        box((770, 60, 200, 120), FUSED, "advantage", "U = all rewards and anchors", "Aᵢ = (rᵢ − mean U) / std U")
    )
    parts += [arrow(690, 100, 768, 105), arrow(690, 210, 768, 125, True), arrow(690, 320, 768, 150, True)]
    parts.append(box((770, 240, 200, 80), VERL, "verl, unchanged", "update, weights, checkpoint"))
    parts.append(f'<path d="M870 180V238" stroke="{INK}" stroke-width="1.4" marker-end="url(#head)"/>')
    parts.append(text(870, 350, "Mono sessions are never trained on.", 13, QUIET))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(draw(), end="")
