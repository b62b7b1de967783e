"""Outputs that a broken, collapsed or hostile model might write: seeded mutations of good ones."""

import json
import random
import string
from collections.abc import Iterator, Mapping

from verl_mars.fields import Fields

TRUTHS = {
    "grounding": {
        "boxes": [[10, 10, 50, 50], [60, 60, 90, 90]],
        "labels": ["person", "car"],
        "frame": 0,
        "size": [1280, 1024],
    },
    "vqa": {"answers": ["top left", "3", "yes"]},
    "mcq": {"letter": "B", "text": "Travel", "choices": ["not the same", "Travel", "Religion"]},
    "count": {"value": 3},
}
SEEDS = [
    '<think>I see.</think><answer>```json\n[{"bbox_2d": [10, 10, 50, 50], "label": "person"}]\n```</answer>',
    '<think>I see.</think><answer>{"bbox_2d": [10.5, 1e1, 50, 5e1], "label": "car"}</answer>',
    "<think>I see.</think><answer>[[10, 10, 50, 50], [60, 60, 90, 90]]</answer>",
    "<think>I see.</think><answer>top left</answer>",
    "<think>Hm.</think><answer>Yes, there are three hundred and twenty-one.</answer>",
    "<think>Hm.</think><answer>The answer is (B) Travel.</answer>",
    "<think>Hm.</think><answer>$\\frac{1}{2}$</answer>\\boxed{3}",
]
PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "```json", "```", "[", "]", "{", "}", '"', "'", ",", ":", "\\"),
    *("NaN", "Infinity", "-Infinity", "1e999", "-0", "9" * 400, "0" * 400, "null", "true", "bbox_2d", "label"),
    *("\x00", "\ud800", "\udfff", "\u201c", "\u2019", "\u202e", "\ufeff", "\U0001f600", "e\u0301", "\u0660", "\u00bd"),
    *(" ", "\n", "\t", "or", "yes", "no", "one hundred", "and", "million", "A", "(b)", ".", "-", "+", "__", "**", "$"),
]


def mutate(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(text))
        to = min(len(text), at + rng.choice([0, 1, 1, 2, 5, 20]))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at] + text[to:]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[to:]
        elif kind == 2:
            text = text[:at] + text[at:to] * rng.randint(2, 30) + text[to:]
        elif kind == 3:
            text = text[:at] + "".join(rng.choices(string.printable, k=rng.randint(1, 12))) + text[to:]
        elif kind == 4:
            text = text[:at] + rng.choice(SEEDS) + text[to:]
        else:
            text = text[:at] + chr(rng.randrange(0x11_0000)) + text[to:]
    return text


def outputs(number: int, seed: int = 0, of: Mapping[str, Fields] = TRUTHS) -> Iterator[tuple[str, str, str]]:
    """(task, ground truth, output), ``number`` of them."""
    rng = random.Random(seed)
    truths = {task: json.dumps(truth) for task, truth in of.items()}
    tasks = sorted(truths)
    for index in range(number):
        task = tasks[index % len(tasks)]
        yield task, truths[task], mutate(rng.choice(SEEDS), rng)


def giants(size: int) -> dict[str, str]:
    """Outputs of ``size`` characters, each built to make some parser slow; wrapped in tags where that hurts more."""

    def fill(piece: str) -> str:
        return (piece * (size // len(piece) + 1))[:size]

    def tagged(text: str) -> str:
        return f"<think>a</think><answer>{text}</answer>"

    bare = {
        piece: fill(piece)
        for piece in ("<think>", "<answer>", "</answer>", "<answer></answer>", "<think></think>", "a")
    }
    bare["half tags"] = fill("<answer>a<think></answer>b</think>")
    inside = {
        "open brackets": fill("["),
        "open braces": fill('{"a":'),
        "broken objects": fill('{"bbox_2d": [1,2,3'),
        "broken lists": fill("[1,2,3,"),
        "closed junk": fill("[}"),
        "brace and bracket": fill("{[}"),
        "objects one by one": fill('{"bbox_2d": [1,2,3,4], "label": "a"} '),
        "one list of boxes": "[" + fill('{"bbox_2d": [1,2,3,4], "label": "a"},'),
        "a list that closes": "[" + ",".join(["[1,2,3,4]"] * (size // 10)) + "]",
        "two thousand boxes": "[" + ",".join(f"[{i},{i},{i + 90},{i + 90}]" for i in range(1999)) + "]",
        "digits": f"[{fill('9')}, 1, 2, 3]",
        "a long float": f"[0.{fill('9')}, 1, 2, 3]",
        "fences": fill("```"),
        "fence and space": "```" + fill(" "),
        "json fences": fill("```json\n"),
        "quotes": fill("\u201c"),
        "single quotes": fill("'"),
        "escapes": '["' + fill("\\u0041") + '"]',
        "long string": '["' + fill("a"),
        "spaces": fill(" "),
        "line breaks": fill("\n"),
        "number words": fill("one hundred and "),
        "numbers": fill("1 "),
        "commas": fill("1,"),
        "signs": fill("-"),
        "words": fill("the answer is "),
        "letters": fill("a."),
        "brackets": fill("("),
        "boxed": fill("\\boxed{"),
        "boxes in boxes": "\\boxed{" * (size // 14) + "}" * (size // 14),
        "percents": fill("%"),
        "marks": fill("e\u0301"),
        "surrogates": fill("\ud800"),
        "null bytes": fill("\x00"),
    }
    return bare | {name: tagged(text) for name, text in inside.items()}
