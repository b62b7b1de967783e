"""Write the generated parts of docs/architecture.md: its picture, and the table of hooks between its marks.

python docs/_site/architecture.py
"""

from pathlib import Path

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "architecture.md"
PICTURE = DOCS / "images" / "architecture.svg"

VERL, OURS, LANE = "#eceff4", "#dfe8fb", "#fafbfd"
INK, EDGE, ARROW = "#1b1f2a", "#8d97a8", "#4a5568"

LANES = (
    (0.15, 2.0, "before a run"),
    (2.45, 4.0, "rollout workers"),
    (6.75, 2.1, "data plane"),
    (9.15, 4.2, "trainer"),
)
"""Left edge, width and name."""

BOXES = {
    # name: (x, y, width, color, title, lines)
    "data_prep": (0.3, 5.0, 1.7, OURS, "data_prep/", "one file a data set"),
    "data": (0.3, 3.7, 1.7, OURS, "data/", "row schema, checks,\nconversion"),
    "preflight": (0.3, 2.4, 1.7, OURS, "preflight/", "refuses what\ncannot work"),
    "verl_data": (0.3, 1.1, 1.7, VERL, "verl", "data set: a prompt a row"),
    "views": (2.65, 5.0, 1.75, OURS, "views.py", "renders a prompt\nunder a view"),
    "worker": (2.65, 3.7, 1.75, OURS, "rollout/worker.py", "n fused sessions and\nthose of the method"),
    "engine": (4.6, 5.0, 1.7, VERL, "engine", "vLLM, or cpu/"),
    "reward": (4.6, 2.4, 1.7, OURS, "reward/  tasks/", "one score a session"),
    "liveness": (2.65, 1.1, 3.65, OURS, "liveness/", "a dead process ends the run with a reason"),
    "store": (6.9, 3.7, 1.8, OURS, "store.py  rows.py", "keys and fields\nof a row"),
    "buffer": (6.9, 2.4, 1.8, OURS, "replay_buffer.py", "order of rows, group\nfilter of the method"),
    "rescore": (9.3, 5.0, 1.8, OURS, "trainer/rescore.py", "log-probs under\nanother view"),
    "trainer": (9.3, 3.7, 1.8, OURS, "trainer/trainer.py", "hands rows to\nthe method"),
    "algos": (11.4, 5.0, 1.8, OURS, "algos/", "tensors in,\ntensors out"),
    "method": (11.4, 3.7, 1.8, OURS, "methods/", "one file a paper"),
    "verl_update": (9.3, 2.4, 3.9, VERL, "verl", "loss, update, weight sync, checkpoint, validation"),
    "reports": (9.3, 1.1, 3.9, OURS, "reports/", "pages of rows, rollouts and tokens"),
}
HEIGHT = 0.85

ARROWS = (
    # from, to, text
    ("data_prep", "data", ""),
    ("data", "preflight", "parquet"),
    ("preflight", "verl_data", ""),
    ("verl_data", "worker", ""),
    ("views", "worker", ""),
    ("worker", "engine", ""),
    ("worker", "reward", ""),
    ("worker", "store", "rows with\nanchors"),
    ("store", "buffer", ""),
    ("store", "trainer", ""),
    ("trainer", "rescore", ""),
    ("trainer", "method", ""),
    ("method", "algos", ""),
    ("trainer", "verl_update", "advantages"),
)


def picture() -> None:
    """Draw one training step through the rooms."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "architecture", "font.family": "sans-serif"})
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(13.6, 6.2), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 13.6), ylim=(0.5, 6.7))
    axes.axis("off")
    for x, width, name in LANES:
        axes.add_patch(FancyBboxPatch((x, 0.75), width, 5.4, "round,pad=0,rounding_size=0.12", fc=LANE, ec="#e3e7ee"))
        axes.text(x + width / 2, 6.35, name, ha="center", va="center", fontsize=12.5, color=ARROW)
    for x, y, width, color, title, lines in BOXES.values():
        axes.add_patch(FancyBboxPatch((x, y), width, HEIGHT, "round,pad=0,rounding_size=0.08", fc=color, ec=EDGE, lw=1))
        axes.text(x + width / 2, y + 0.64, title, ha="center", va="center", fontsize=11, weight="bold", color=INK)
        axes.text(x + width / 2, y + 0.28, lines, ha="center", va="center", fontsize=9, color=INK, linespacing=1.15)
    for start, end, text in ARROWS:
        (x0, y0), (x1, y1) = _ends(start, end)
        style = {"arrowstyle": "-|>", "color": ARROW, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
        if text:
            axes.text((x0 + x1) / 2 + 0.06, (y0 + y1) / 2, text, ha="left" if x0 == x1 else "center",
                      va="center" if x0 == x1 else "bottom", fontsize=9, color=ARROW)  # fmt: skip
    figure.savefig(PICTURE, metadata={"Date": None, "Title": "One training step through the rooms of verl-mars"})


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and enters another: in the middle of the sides that face each other."""
    x0, y0, w0, *_ = BOXES[start]
    x1, y1, w1, *_ = BOXES[end]
    if x0 + w0 <= x1:
        return (x0 + w0, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2)
    middle = max(x0, x1) / 2 + min(x0 + w0, x1 + w1) / 2
    return ((middle, y0), (middle, y1 + HEIGHT)) if y0 > y1 else ((middle, y0 + HEIGHT), (middle, y1))


def hooks_table() -> str:
    """The private methods of verl that are overridden, from ``_compat.HOOKS``."""
    from verl_mars._compat import HOOKS

    lines = ["| method of verl | overridden by |", "|---|---|"]
    for name, hook in HOOKS.items():
        lines.append(f"| `{name}` | {', '.join(f'`{path}`' for path in hook.ours)} |")
    return "\n".join(lines)


def with_hooks(page: str) -> str:
    """The page with the current table between its marks."""
    before, first, rest = page.partition("<!-- hooks -->\n")
    _, last, after = rest.partition("<!-- /hooks -->")
    return f"{before}{first}{hooks_table()}\n{last}{after}"


if __name__ == "__main__":
    picture()
    PAGE.write_text(with_hooks(PAGE.read_text()))
