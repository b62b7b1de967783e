"""Right answers, and seeded changes of their meaning: a sign, a letter, a number, a relation, a negation, a hedge."""

import json
import random
from collections.abc import Callable, Iterator

Case = tuple[dict, str]  # a ground truth and a right answer

WORDS = "red,top left,black dog,three,traffic light,open,vitamin A,the left one,C++,on fire".split(",")
SIGNED = "x > 3|$5|-5|10%|1/2|0.5|A > B|5 cm|2:1|n!|3 + 4|<|20\u00b0|\u00a31,250.00".split("|")
CHOICES = [
    ["Travel", "Cooking", "Sports", "History"],
    ["x > 3", "x < 3", "x = 3", "x \u2265 3"],
    ["$5", "\u20ac5", "\u00a35", "5"],
    ["10", "10%", "-10", "100"],
    ["1/2", "1:2", "1.2", "12"],
    ["a, b", "b, a", "ab", "b and c"],
    ["n!", "n", "-n", "2n"],
    ["Is open", "Is not open", "Was open", "open"],
    ["Ca", "CA", "ca", "cA"],
    ["the cat", "a cat", "cats", "two cats"],
]
MINUS = ["-", "\u2212", "\u2013", "\u2014"]
RELATIONS = ["<", ">", "\u2264", "\u2265", "\u2260", "=", "~", "\u2248"]
CURRENCIES = ["$", "\u20ac", "\u00a3", "\u00a5", "%", "\u00b0", "#"]
BOUNDS = (
    "more than {}|less than {}|at least {}|at most {}|{} or more|{} or less|about {}|nearly {}|over {}|up to {}|{}+|"
    "no more than {}|not {}|{} million|{} dozen|{} hundred|{}%|{} percent|minus {}|-{}|{} pairs|half of {}|{} or {}1|"
    "{}.5|1{}|{}0|maybe {}, maybe not|{} times 2"
).split("|")
NEGATIONS = ["not {}", "{}, or not", "no, not {}", "isn't {}", "anything but {}", "{} is wrong", "never {}", "non {}"]
HEDGES = ["{} or something else", "either {} or the other", "{}, probably not", "{}? no"]


def change_letter(text: str, rng: random.Random) -> str:
    places = [place for place, sign in enumerate(text) if sign.isalpha()]
    if not places:
        return text + "x"
    place = rng.choice(places)
    letter = rng.choice([chr(code) for code in range(ord("a"), ord("z") + 1) if chr(code) != text[place].lower()])
    return text[:place] + letter + text[place + 1 :]


def change_digit(text: str, rng: random.Random) -> str:
    places = [place for place, sign in enumerate(text) if sign in "123456789"]
    if not places:
        return f"{rng.randint(2, 9)} {text}"
    place = rng.choice(places)
    return text[:place] + rng.choice([digit for digit in "123456789" if digit != text[place]]) + text[place + 1 :]


def change_sign(text: str, rng: random.Random) -> str:
    signs = [place for place, sign in enumerate(text) if not sign.isalnum() and sign not in " .,'\"!()"]
    if not signs:
        return (
            rng.choice(
                [*MINUS, *(sign for sign in RELATIONS if sign != "="), *CURRENCIES, "\u221a", "\u00b1", "\u00ac"]
            )
            + text
        )
    place = rng.choice(signs)
    other = rng.choice([sign for sign in [*RELATIONS, *CURRENCIES, "+", "/"] if sign != text[place]])
    return text[:place] + rng.choice([other, "" if text[place] not in "-/:" else other]) + text[place + 1 :]


def _template(templates: list[str]) -> Callable[[str, random.Random], str]:
    return lambda text, rng: rng.choice(templates).replace("{}", text)


WORD_CHANGES = [change_letter, change_sign, _template(NEGATIONS), _template(HEDGES)]


def vqa(rng: random.Random) -> Iterator[tuple[dict, str]]:
    while True:
        kind = rng.randrange(3)
        if kind == 0:
            right = rng.choice(WORDS)
            changed = rng.choice(WORD_CHANGES)(right, rng)
            yield {"answers": [right]}, changed
        elif kind == 1:
            right = rng.choice(SIGNED)
            changed = rng.choice([change_sign, change_digit, _template(NEGATIONS), _template(HEDGES)])(right, rng)
            yield {"answers": [right]}, changed
        else:
            verdict, other = rng.choice([("yes", "no"), ("no", "yes")])
            templates = [f"{{}}, {other}", f"{{}} and {other}", f"{{}} or {other}", f"{{}}, but also {other}", "not {}"]
            templates += ["{}, maybe", "{}, or perhaps the opposite", f"{{}}, I mean {other}", f"{other}", "maybe {}"]
            if verdict == "yes":
                templates += ["{}, there is none", "{}, it is not", "{}, never", "{}, probably not"]
            yield {"answers": [verdict]}, rng.choice(templates).replace("{}", rng.choice([verdict, verdict.title()]))


def count(rng: random.Random) -> Iterator[tuple[dict, str]]:
    while True:
        value = rng.randint(1, 99)
        right = rng.choice(["{}", "There are {} people.", "{} cars", "The answer is {}"])
        changed = rng.choice(BOUNDS).replace("{}", str(value))
        if rng.random() < 0.3:
            changed = change_digit(str(value), rng)
        yield {"value": value}, right.replace("{}", changed)


def mcq(rng: random.Random) -> Iterator[tuple[dict, str]]:
    while True:
        choices = rng.choice(CHOICES)
        right, other = rng.sample(range(4), 2)
        letter, wrong = "ABCD"[right], "ABCD"[other]
        truth = {"letter": letter, "text": choices[right], "choices": choices}
        right_text, wrong_text = choices[right], choices[other]
        templates = [
            wrong,
            f"({wrong})",
            f"{wrong}. {wrong_text}",
            wrong_text,
            f"{wrong}. {right_text}",
            f"{letter}?{wrong}",
        ]
        templates += [f"{letter}. {wrong_text}", f"{letter} or {wrong}", f"not {letter}", f"{letter}, {wrong}"]
        templates += [f"({wrong}) {right_text}", f"The answer is {wrong}, {right_text}", f"{right_text} ({wrong})"]
        templates += [f"\\boxed{{{letter}}} \\boxed{{{wrong}}}", f"The answer is not {letter}", f"{letter} is wrong"]
        templates += [f"either {letter} or {wrong}", f"\u7b54\u6848\u662f{wrong}", f"{letter} is not correct"]
        answer = rng.choice(templates)
        if "".join(filter(str.isalnum, answer)).casefold() != "".join(filter(str.isalnum, choices[right])).casefold():
            yield truth, answer  # "A, B" is the text of the choice "a, b"


def math(rng: random.Random) -> Iterator[tuple[dict, str]]:
    """Changes that are settled without math-verify, which takes milliseconds an expression."""
    while True:
        kind = rng.randrange(4)
        value = rng.randint(2, 99)
        if kind == 0:
            templates = [
                "-{}",
                "{}%",
                "{}.5",
                "{} or {}",
                ">{}",
                "\u2260{}",
                "\u00b1{}",
                "{}+",
                "1{}",
                "{}0",
                "\u2013{}",
            ]
            templates += [
                "{} million",
                "about {}",
                "not {}",
                "{} {}",
                "{}/7",
                "{}^2",
                "\\infty",
                "{}\u00b2",
                "{} \\cdot 10^{2}",
            ]
            yield {"answer": str(value)}, rng.choice(templates).replace("{}", str(value))
        elif kind == 1:
            top, bottom = rng.randint(1, 9), rng.choice([2, 4, 5, 8])
            other = rng.randint(10, 99)
            yield (
                {"answer": f"{top}/{bottom}"},
                rng.choice(
                    [
                        f"-{top}/{bottom}",
                        f"{other}/{bottom}",
                        f"{top} {top}/{bottom}",
                        f"\\frac{{{top}}}{{{other}}}",
                        str(other),
                    ]
                ),
            )
        elif kind == 2:
            unit, wrong = rng.sample(["cm", "km", "kg", "mm", "m/s", "hours"], 2)
            yield {"answer": f"{value} \\text{{ {unit}}}"}, f"{value} {wrong}"
        else:
            power = rng.randint(20, 99)
            yield (
                {"answer": f"2^{{-{power}}}"},
                rng.choice([f"2^{{-{power - 1}}}", f"2^{{{power}}}", f"-2^{{-{power}}}", "0"]),
            )


def ocr(rng: random.Random) -> Iterator[tuple[dict, str]]:
    while True:
        right = rng.choice([*WORDS, *SIGNED, "Exit 42", "No. 7, Main St."])
        yield {"answers": [right]}, rng.choice([change_letter, change_sign, change_digit])(right, rng)


def grounding(rng: random.Random) -> Iterator[tuple[dict, str]]:
    while True:
        boxes = []
        for _ in range(rng.randint(1, 4)):
            x, y = rng.randint(0, 800), rng.randint(0, 400)
            boxes.append([x, y, x + rng.randint(20, 150), y + rng.randint(20, 90)])
        labels = [rng.choice(["person", "car"]) for _ in boxes]
        truth = {"boxes": boxes, "labels": labels, "frame": 0, "size": [1000, 500]}
        said = [{"bbox_2d": list(box), "label": label} for box, label in zip(boxes, labels, strict=True)]
        item = rng.choice(said)
        change = rng.randrange(7)
        if change == 0:
            item["label"] = change_letter(item["label"], rng)
        elif change == 1:
            item["label"] = f"no {item['label']}"
        elif change == 2:
            place = rng.randrange(4)
            item["bbox_2d"][place] += rng.choice([-9, -5, 5, 9]) if item["bbox_2d"][place] else 9
        elif change == 3:
            x1, y1, x2, y2 = item["bbox_2d"]
            item["bbox_2d"] = rng.choice([[x2, y2, x1, y1], [y1, x1, y2, x2 + 1], [-x1 - 1, -y1 - 1, x2, y2]])
        elif change == 4:
            said.remove(item)
        elif change == 5:
            said.append(dict(item))
        else:
            item["bbox_2d"] = item["bbox_2d"][:3]
        yield truth, json.dumps(said)


CHANGES = {"vqa": vqa, "count": count, "mcq": mcq, "math": math, "ocr": ocr, "grounding": grounding}
