"""What answers with boxes deserve. The true boxes are chosen so that every IoU can be checked by head."""

from reward_cases import Case, answered, boxes

SIZE = [1000, 500]
ONE = {"boxes": [[100, 100, 200, 200]], "labels": ["person"], "frame": 0, "size": SIZE}
TWO = {"boxes": [[100, 100, 200, 200], [300, 100, 400, 200]], "labels": ["person", "person"], "frame": 0, "size": SIZE}
MIXED = {"boxes": [[100, 100, 200, 200], [300, 100, 400, 200]], "labels": ["person", "car"], "frame": 0, "size": SIZE}
NOTHING = {"boxes": [], "labels": [], "frame": 0, "size": SIZE}


def box(*corners: object, label: str = "person") -> str:
    return f'{{"bbox_2d": [{", ".join(map(str, corners))}], "label": "{label}"}}'


FIRST, SECOND = box(100, 100, 200, 200), box(300, 100, 400, 200)
HALF = box(100, 100, 200, 150)  # IoU 1/2 with the first
FIFTH = box(100, 100, 200, 120)  # IoU 1/5 with the first
FAR = box(600, 300, 700, 400)

READING = boxes(
    ONE,
    (f"```json\n[{FIRST}]\n```", 1, 1, "a list in a fence, as the prompt asks"),
    (f"[{FIRST}]", 1, 1, "fault 8: no fence"),
    (FIRST, 1, 1, "fault 8: one object instead of a list"),
    (f"```\n[{FIRST}]\n```", 1, 1, "a fence without its language"),
    (f"```JSON\n[{FIRST}]\n```", 1, 1, "its language in capitals"),
    (FIRST.replace('"', "\u201c"), 1, 1, "fault 8: the quotes of the authors' own prompt"),
    ("{\u201cbbox_2d\u201d: [100, 100, 200, 200], \u201clabel\u201d: \u201cperson\u201d}", 1, 1, "the same, in pairs"),
    (FIRST.replace('"', "'"), 1, 2 / 3, "fault 8: single quotes are read, but are not JSON"),
    (f"[{FIRST},]", 1, 2 / 3, "a trailing comma"),
    (f"The person is here: {FIRST}", 1, 2 / 3, "prose around it"),
    (f"[{FIRST}", 1, 2 / 3, "broken off after the first box"),
    (f"[{FIRST}, " + '{"bbox_2d": [300, 1', 1, 2 / 3, "broken off inside the second box, which does not count"),
    (f"[{FIRST}, " + '{"bbox_2d": [600, 300, 700, 400], "lab', 1, 2 / 3, "numbers of a broken object are no box"),
    (f"```json\n[{FIRST}]", 1, 1, "a fence that is not closed"),
    (f"```json\n[{FAR}]\n```\n```json\n[{FIRST}]\n```", 1, 2 / 3, "the last fence counts"),
    (f"```json\n[{FIRST}]\n```\n```json\n[{FAR}]\n```", 0, 2 / 3, "the last fence counts"),
    ("[100, 100, 200, 200]", 1, 2 / 3, "numbers without a label, where there is one label only"),
    ("[[100, 100, 200, 200]]", 1, 2 / 3, "a list of such"),
    ('[{"bbox_2d": [100, 100, 200, 200]}]', 1, 2 / 3, "an object without a label"),
    ('[{"bbox": [100, 100, 200, 200], "label": "person"}]', 1, 1, "the short key"),
    ('[{"bbox_2d": "[100, 100, 200, 200]", "label": "person"}]', 1, 1, "the numbers as text"),
    ('{"label": "person", "bbox_2d": [100.0, 1e2, 200.0, 2e2]}', 1, 1, "floats"),
    ("(100, 100), (200, 200)", 0, 2 / 3, "not JSON"),
    ("100 100 200 200", 0, 2 / 3, "not JSON"),
    ("<box>100 100 200 200</box>", 0, 2 / 3, "not JSON"),
    ("person", 0, 2 / 3, "no box"),
    ("null", 0, 2 / 3, "no box"),
    ("42", 0, 2 / 3, "no box"),
    ('"text"', 0, 2 / 3, "no box"),
    ("{}", 0, 2 / 3, "an object without a box is a wrong box"),
    ("[[]]", 0, 2 / 3, "a list without a box is a wrong box"),
    ("[null]", 0, 2 / 3, "null is a wrong box"),
    ('[{"bbox_2d": [100, 100, 200], "label": "person"}]', 0, 2 / 3, "three numbers"),
    ('[{"bbox_2d": [100, 100, 200, 200, 9], "label": "person"}]', 0, 2 / 3, "five numbers"),
    ('[{"bbox_2d": [true, 100, 200, 200], "label": "person"}]', 0, 2 / 3, "a truth value is not a number"),
    ('[{"bbox_2d": ["100", "100", "200", "200"], "label": "person"}]', 0, 2 / 3, "texts are not numbers"),
    ('[{"bbox_2d": [NaN, 100, 200, 200], "label": "person"}]', 0, 2 / 3, "fault 6: NaN, which stops the authors' run"),
    ('[{"bbox_2d": [-Infinity, 0, Infinity, 500], "label": "person"}]', 0, 2 / 3, "infinity"),
    ('[{"bbox_2d": [1e999, 100, 200, 200], "label": "person"}]', 0, 2 / 3, "beyond every float"),
    ('[{"bbox_2d": [' + "9" * 5000 + ', 0, 1, 1], "label": "person"}]', 0, 2 / 3, "an endless number"),
    ("[" * 50_000, 0, 2 / 3, "deep nesting"),
    ('{"bbox_2d":' * 5_000, 0, 2 / 3, "deep nesting of objects"),
    (f"[{FIRST}]\x00", 1, 2 / 3, "a null byte after it"),
    (f"[{box(100, 100, 200, 200, label=chr(0xD800))}]", 0, 1, "a lone surrogate for a label"),
)

SCORING = [
    *boxes(
        ONE,
        (f"[{HALF}]", 0.5, 1, "half of the box: IoU 1/2"),
        (f"[{FIFTH}]", 0, 1, "an IoU of 1/5 is under the threshold"),
        (f"[{FIFTH}]", 0.2, 1, "unless the threshold is lower", {"iou_threshold": 0.1}),
        (f"[{FAR}]", 0, 1, "elsewhere"),
        (f"[{FIRST}, {FAR}]", 2 / 3, 1, "a box too many: 2 * 1 / (2 + 1)"),
        (f"[{FIRST}, {FIRST}]", 2 / 3, 1, "the same box twice counts once"),
        (f"[{FIRST}, {FAR}, {FAR}]", 0.5, 1, "two boxes too many: 2 / 4"),
        (f"[{HALF}, {FIRST}]", 2 / 3, 1, "the better of two boxes is matched"),
        (f"[{FIRST}" + f", {FAR}" * 100 + "]", 2 / 102, 1, "fault 17: 100 boxes of junk beside the right one"),
        (f"[{FIRST}, [1]]", 2 / 3, 2 / 3, "what is no box counts as one too many"),
        (f"[{box(100, 100, 200, 200, label='car')}]", 0, 1, "fault 7: a wrong label"),
        (f"[{box(100, 100, 200, 200, label=' PERSON ')}]", 1, 1, "case and space in a label"),
        (f"[{box(100, 100, 200, 200, label='')}]", 0, 1, "an empty label"),
        (f"[{box(200, 200, 100, 100)}]", 0, 1, "corners in the wrong order"),
        (f"[{box(100, 100, 100, 200)}]", 0, 1, "fault 18: no width"),
        (f"[{box(0, 0, 0, 0)}]", 0, 1, "fault 18: a point"),
        (f"[{box(-50, -50, 5000, 5000)}]", 0, 1, "the whole image and more: IoU 0.02"),
        (f"[{box(1e300, 1e300, 1e308, 1e308)}]", 0, 1, "numbers near the largest"),
        ("[]", 0, 1, "says there is nothing, but there is"),
        (f"[{', '.join([FAR] * 2500)}]", 0, 2 / 3, "thousands of boxes are not read"),
        (f"[{', '.join([FIRST] * 1000)}]", 2 / 1001, 1, "a thousand boxes are"),
    ),
    *boxes(
        TWO,
        (f"[{FIRST}, {SECOND}]", 1, 1, "both"),
        (f"[{SECOND}, {FIRST}]", 1, 1, "fault 12: the order and the number do not change what is perfect"),
        (f"[{FIRST}]", 2 / 3, 1, "one of two"),
        (f"{FIRST}\n{SECOND}", 1, 2 / 3, "one object a line"),
        (f"{FIRST}, {SECOND}", 1, 2 / 3, "objects without their list"),
        (f"[{HALF}, {SECOND}]", 0.75, 1, "one half right: 2 * 1.5 / 4"),
        (f"[{FIRST}, {FAR}]", 0.5, 1, "one right, one wrong: 2 / 4"),
        (f"[{FIRST}, {FIRST}]", 0.5, 1, "one box for two persons"),
        (f"[{box(100, 100, 400, 200)}]", 2 / 9, 1, "one box around both: IoU 1/3 with one of them"),
        ('{"bbox_2d": [100, 100, 200, 200]}', 2 / 3, 2 / 3, "no label, one class"),
    ),
    *boxes(
        MIXED,
        (f"[{FIRST}, {box(300, 100, 400, 200, label='car')}]", 1, 1, "each with its label"),
        (f"[{FIRST}, {SECOND}]", 0.5, 1, "fault 7: one label wrong"),
        (f"[{box(100, 100, 200, 200, label='car')}, {SECOND}]", 0, 1, "fault 7: labels exchanged"),
        ("[[100, 100, 200, 200], [300, 100, 400, 200]]", 0, 2 / 3, "without labels, where there are two"),
    ),
    *boxes(
        NOTHING,
        ("[]", 1, 1, "fault 9: says that there is nothing"),
        ("```json\n[]\n```", 1, 1, "the same in a fence"),
        (f"[{FIRST}]", 0, 1, "sees what is not there"),
        ("nothing", 0, 2 / 3, "not in the form asked for"),
        ("[[]]", 0, 2 / 3, "not an empty list"),
    ),
    Case("grounding", NOTHING, "<think>a</think>", 0, 1 / 3, "silence is not an empty list"),
    Case("grounding", ONE, f"<think>a</think>[{FIRST}]", 0, 1 / 3, "boxes without answer tags"),
    Case("grounding", ONE, f"<answer>[{FAR}]</answer><think>a</think><answer>[{FIRST}]</answer>", 1, 1 / 3, "fault 11"),
    Case("grounding", ONE, answered(f"[{FIRST}]"), 1, 0, "cut off", {"truncated": True}),
]

FRAMES = boxes(
    ONE,
    (f"[{box(100, 200, 200, 400)}]", 1, 1, "thousandths of 1000 x 500", {}, {"coordinates": "qwen3_vl"}),
    (f"[{FIRST}]", 0, 1, "pixels where thousandths are meant", {}, {"coordinates": "qwen3_vl"}),
    (f"[{box(100, 200, 200, 400)}]", 1, 1, "the setting goes before the row", {"coordinates": "qwen3_vl"}),
    (f"[{FIRST}]", 1, 1, "the setting goes before the row", {"coordinates": "pixel"}, {"coordinates": "qwen3_vl"}),
    # 1000 x 500 is seen as 1008 x 504: both sides 1.008 times as long
    (f"[{box(100.8, 100.8, 201.6, 201.6)}]", 1, 1, "pixels of the image as seen", {}, {"coordinates": "qwen2_5_vl"}),
    (
        f"[{box(50, 50, 100, 100)}]",
        1,
        1,
        "a row that says itself how its image was seen",
        {},
        {"coordinates": "qwen2_5_vl", "seen_sizes": [[500, 250]]},
    ),
    (
        # at most 28 * 28 * 100 pixels: 1000 x 500 -> 1008 x 504 -> 392 x 196
        f"[{box(39.2, 39.2, 78.4, 78.4)}]",
        1,
        1,
        "a processor with a limit of its own",
        {"image_processor": {"max_pixels": 28 * 28 * 100}},
        {"coordinates": "qwen2_5_vl"},
    ),
)

BOXES = [*READING, *SCORING, *FRAMES]
