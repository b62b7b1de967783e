"""Draw one training step of MARS: ``python docs/_site/step_figure.py > docs/images/step.svg``.

The rewards are an example; the advantages are computed from them. Colours follow the reader's light or dark scheme.
"""

from dataclasses import dataclass
from html import escape
from statistics import mean, stdev

WIDTH, HEIGHT = 1000, 410
FUSED_REWARDS = (1.0, 0.0, 1.0, 1.0)
ANCHORS = {"RGB": 0.0, "infrared": 1.0}

LIGHT = {
    "page": "#ffffff",
    "plain": "#ffffff",
    "fused": "#dfe3fb",
    "mono": "#fdeccf",
    "verl": "#eef0f4",
    "ink": "#1f2430",
    "quiet": "#545b69",
    "edge": "#8a92a3",
}
DARK = {
    "page": "#12151c",
    "plain": "#1b202b",
    "fused": "#2b3364",
    "mono": "#4d3a18",
    "verl": "#272c37",
    "ink": "#eceef3",
    "quiet": "#b3bac8",
    "edge": "#7d8698",
}


@dataclass(frozen=True)
class Box:
    """A rounded box: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    def draw(self, fill: str, *lines: str, top: int = 27) -> str:
        """The box with centred lines of text, the first in bold, `top` pixels below its upper edge."""
        parts = [
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="8" class="{fill} edge"/>'
        ]
        for number, words in enumerate(lines):
            kind = "title" if number == 0 else "note"
            parts.append(text(self.middle, self.y + top + 21 * number, words, kind))
        return "".join(parts)


def style() -> str:
    """Colours and sizes, light unless the reader's scheme is dark."""

    def colours(scheme: dict[str, str]) -> str:
        areas = "".join(f".{name}{{fill:{scheme[name]}}}" for name in ("page", "plain", "fused", "mono", "verl"))
        return (
            f"{areas}.edge{{stroke:{scheme['edge']}}}.title,.head{{fill:{scheme['ink']}}}"
            f".note,.column{{fill:{scheme['quiet']}}}.arrow{{stroke:{scheme['ink']}}}"
        )

    sizes = (
        ".title{font-size:16px;font-weight:600}.note,.column{font-size:14px}.column{letter-spacing:.06em}"
        ".arrow{fill:none;stroke-width:1.5}.dashed{stroke-dasharray:5 4}text{text-anchor:middle}"
    )
    return f"<style>{sizes}{colours(LIGHT)}@media(prefers-color-scheme:dark){{{colours(DARK)}}}</style>"


def text(x: float, y: float, words: str, kind: str) -> str:
    """A centred line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def arrow(x1: int, y1: int, x2: int, y2: int, dashed: bool = False) -> str:
    """A line with an arrow head, level at both ends."""
    middle = (x1 + x2) // 2
    kind = "arrow dashed" if dashed else "arrow"
    return f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" class="{kind}" marker-end="url(#head)"/>'


def thumbnail(x: float, y: float, source: str) -> str:
    """A street at night, 52 x 36 pixels: two people whom RGB hardly shows and infrared shows clearly."""
    back, ground, person = {
        "RGB": ("#101a33", "#1c2740", "#27344f"),
        "infrared": ("#3a1440", "#4a1c4c", "#ffb13d"),
    }[source]
    people = "".join(
        f'<circle cx="{x + at:g}" cy="{y + 13:g}" r="3.4" fill="{person}"/>'
        f'<rect x="{x + at - 4:g}" y="{y + 17:g}" width="8" height="13" rx="3.4" fill="{person}"/>'
        for at in (20, 34)
    )
    lamp = f'<circle cx="{x + 44:g}" cy="{y + 8:g}" r="3" fill="#ffe9a8"/>' if source == "RGB" else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="52" height="36" rx="4" fill="{back}" class="edge"/>'
        f'<rect x="{x:g}" y="{y + 27:g}" width="52" height="9" rx="2" fill="{ground}"/>{lamp}{people}'
    )


def thumbnails(middle: float, y: float, sources: tuple[str, ...]) -> str:
    """The pictures of these sources side by side."""
    left = middle - (60 * len(sources) - 8) / 2
    return "".join(thumbnail(left + 60 * number, y, source) for number, source in enumerate(sources))


def advantages() -> dict[str, tuple[float, float]]:
    """Advantages of a right and of a wrong answer, with the anchors and, as GRPO has them, without."""
    groups = {"MARS": [*FUSED_REWARDS, *ANCHORS.values()], "GRPO": [*FUSED_REWARDS]}
    return {
        name: tuple((reward - mean(group)) / (stdev(group) + 1e-6) for reward in (1.0, 0.0))  # type: ignore[misc]
        for name, group in groups.items()
    }


def draw() -> str:
    """The whole picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="One training step of MARS" font-family="system-ui, sans-serif">',
        style(),
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" class="head"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" class="page"/>',
    ]
    for x, title in ((97, "a prompt"), (336, "rollout, one request"), (566, "rewards"), (838, "training")):
        parts.append(text(x, 38, title, "column"))

    row = Box(20, 140, 154, 140)
    parts += [row.draw("plain", "two sources", "“How many people", "are there?”"), thumbnails(97, 226, tuple(ANCHORS))]

    count = len(FUSED_REWARDS)
    shown = " ".join(f"{reward:g}" for reward in FUSED_REWARDS)
    sessions = [("fused", f"{count} fused sessions", "sampled", tuple(ANCHORS), shown, "rewards r")]
    sessions += [
        ("mono", f"{source} alone", "one mono session, greedy", (source,), f"{reward:g}", "anchor")
        for source, reward in ANCHORS.items()
    ]
    for number, (fill, title, how, sources, reward, meaning) in enumerate(sessions):
        y = 58 + 115 * number
        parts += [arrow(174, 210, 230, y + 50), Box(232, y, 208, 100).draw(fill, title, how)]
        parts += [thumbnails(336, y + 57, sources), arrow(440, y + 50, 494, y + 50)]
        parts += [Box(496, y + 15, 140, 70).draw(fill, reward, meaning, top=31)]
        parts.append(arrow(636, y + 50, 700, (130, 165, 200)[number], dashed=fill == "mono"))

    values = advantages()
    minus = "−"
    lines = [
        f"{answer} {mars:+.2f} (GRPO {grpo:+.2f})".replace("-", minus)
        for answer, mars, grpo in zip(("right", "wrong"), values["MARS"], values["GRPO"], strict=True)
    ]
    parts.append(
        Box(702, 80, 276, 160).draw("fused", "advantage", "U = rewards and anchors", f"A = (r {minus} mean U) / std U")
    )
    parts.append('<path d="M720 168H960" class="edge"/>')
    parts += [text(840, 196 + 23 * number, words, "title") for number, words in enumerate(lines)]
    parts.append('<path d="M840 240V286" class="arrow" marker-end="url(#head)"/>')
    parts.append(Box(702, 288, 276, 64).draw("verl", "verl, unchanged", "update, weight sync, checkpoint"))
    parts.append(text(840, 380, "Mono sessions are never trained on.", "note"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(draw(), end="")
