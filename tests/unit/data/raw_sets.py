"""Small raw data sets, faithful to the published ones in layout, names and quirks. All made here, none is real."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def picture(path, size=(64, 48), *, seed=0, boxes=(), gray=False, **save):
    """A picture with something in it: a gradient, some noise, and a bright patch for each box."""
    rng = np.random.default_rng(seed)
    width, height = size
    ramp = np.linspace(20, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    pixels = ramp * np.array([1.0, 0.8, 0.6]) + rng.normal(0, 6, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    for x1, y1, x2, y2 in boxes:
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=(230, 220, 190))
    if gray:
        image = image.convert("L")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)
    return path


def depth(path, size=(64, 48), *, near=600, far=5000, hole=True, rotate=False):
    """16-bit millimetres: near at the bottom, far at the top, nothing measured in one corner."""
    width, height = size
    values = np.linspace(far, near, height)[:, None] + np.zeros((1, width))
    if hole:
        values[:6, :6] = 0
    values = values.astype(np.uint16)
    if rotate:
        values = (values << np.uint16(3)) | (values >> np.uint16(13))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def voc(path, boxes, size, *, name="person", extra=""):
    """An annotation as labelImg writes it."""
    objects = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in zip(boxes, [name] * len(boxes) if isinstance(name, str) else name, strict=True)
    )
    declared = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><folder>x</folder><filename>{path.stem}.jpg</filename>{extra}{declared}{objects}</annotation>"
    )


LLVIP_BOXES = {
    "010001": [(10, 12, 24, 40)],
    "010002": [(1, 1, 20, 30), (30, 8, 44, 40), (50, 10, 64, 48)],  # labelImg counts from 1; the last ends at the edge
    "020001": [],  # two real annotations have no object
    "020002": [(5, 5, 15, 25)],
    "190001": [(12, 9, 28, 44)],
    "190002": [(20, 5, 40, 30)],
}


def llvip(root, size=(64, 48)):
    for stem, boxes in LLVIP_BOXES.items():
        split = "train" if stem < "19" else "test"
        seed = int(stem)
        picture(root / "visible" / split / f"{stem}.jpg", size, seed=seed, quality=92)
        picture(root / "infrared" / split / f"{stem}.jpg", size, seed=seed + 1, boxes=boxes, quality=92)
        voc(root / "Annotations" / f"{stem}.xml", boxes, size)
    return root


def m3fd(root, size=(64, 48), count=8):
    names = ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
    for number in range(count):
        stem = f"{number * 30:05d}"
        boxes = [(4 + number, 6, 20 + number, 30), (30, 10, 50, 44)]
        picture(root / "Vis" / f"{stem}.png", size, seed=number)
        picture(root / "Ir" / f"{stem}.png", size, seed=number, boxes=boxes, gray=True)
        voc(root / "Annotation" / f"{stem}.xml", boxes, size, name=[names[number % 6], names[(number + 1) % 6]])
    (root / "meta").mkdir()
    stems = [f"{number * 30:05d}.png" for number in range(count)]
    (root / "meta" / "train.txt").write_text("\n".join(stems[: count // 2]) + "\n")
    (root / "meta" / "val.txt").write_text("\n".join(stems[count // 2 : -1]) + "\n")
    return root


def spatialbench(root, size=(64, 48)):
    def pair(category, name):
        picture(root / category / f"{name}.jpg", size, seed=len(name))
        depth(root / f"{category}_d" / f"{name}.png", size)
        return f"{category}/{name}.jpg"

    def dump(category, records):
        (root / f"{category}.json").write_text(json.dumps(records))

    lamp, cup, desk = pair("existence", "sa_1"), pair("reach", "12"), pair("counting", "7")
    seat, ball, door = pair("positional", "9"), pair("size", "4"), pair("grounding", "5")
    yes_no = " Answer the question with Yes or No."
    dump(
        "existence",
        [
            {"id": "existence_0", "image": lamp, "question": "Is there a lamp?" + yes_no, "answer": "Yes"},
            {"id": "existence_1", "image": lamp, "question": "Is there a horse?" + yes_no, "answer": "No"},
        ],
    )
    dump(
        "reach",
        [
            {"id": "reach_0", "image": [cup], "question": "Has the hand reached the cup?" + yes_no, "answer": "No"},
            {"id": "reach_1", "image": [cup], "question": "Is the hand not at the cup?" + yes_no, "answer": "Yes"},
        ],
    )
    dump("counting", [{"image": desk, "question": "How many pens are there?", "answer": "3"}])
    dump("positional", [{"image": seat, "question": "Which is nearer, A. chair or B. table?", "answer": "A"}])
    dump(
        "size",
        [
            {"image": ball, "question": "Is the ball larger than the box?" + yes_no, "answer": "No"},
            {"image": ball, "question": "Is the box larger than the ball?" + yes_no, "answer": "Yes"},
        ],
    )
    dump("grounding", [{"id": "grounding_0", "image": door, "objects": [{"the door": [4.0, 5.0, 30.0, 40.0]}]}])
    return root


def spatialqa(root, size=(64, 48)):
    records = []
    for number, answer in enumerate(["yes", "12 cm", "The cup stands on the table to the left of the lamp.", "no"]):
        picture(root / "rgb" / f"{number}.jpg", size, seed=number)
        depth(root / "rgb_d" / f"{number}.png", size, near=400 + 100 * number)
        turns = [
            {"from": "human", "value": "<image 1>\n<image 2>\nIs the cup near?"},
            {"from": "gpt", "value": answer},
        ]
        if number == 3:
            turns += [{"from": "human", "value": "And the lamp?"}, {"from": "gpt", "value": "yes"}]
        records.append(
            {"id": f"q{number}", "image": [f"rgb/{number}.jpg", f"rgb_d/{number}.png"], "conversations": turns}
        )
    (root / "spatialqa.json").write_text(json.dumps(records, indent=1))
    return root


OCR_INSTRUCTION = (
    "I will upload two illustrations of the book cover. Please scrutinize the illustrations and answer a question. "
    "You must choose your answer from the Choice List. "
)
VIEWS_INSTRUCTION = "Given six pictures captured from different angles on a street-view car, answer the question. "


def ocr_question(choices, asked="Are these two books in the same field?"):
    listed = ", ".join(f"{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))
    return f"{asked} Choice list : [{listed}]."


def m4_records(root, size=(64, 48), rows=24):
    """nuScenes and OCR-VQA records in turn, as in M4's one file."""
    fields = ["Travel", "Crafts, Hobbies & Home", "Children's Books", "Medical Books"]
    records = []
    for number in range(rows):
        if number % 2:
            images = [f"OCR-VQA/full/images/{number * 2 + k}.jpg" for k in range(2)]
            choices = [*fields[:3]]
            choices.insert(number % 3, "not the same")
            letter = chr(65 + choices.index(fields[number % 3]))
            text = OCR_INSTRUCTION + "<image><image> Question: " + ocr_question(choices)
            kind, answer = ("OCR-VQA", "multi-choice"), letter
        else:
            images = [f"nuscenes/full/images/{number * 6 + k}.jpg" for k in range(6)]
            text = VIEWS_INSTRUCTION + "<image>" * 6 + " Question: how many trucks are there?"
            kind, answer = ("nuscenes", "open-ended"), ["yes", "two or 2", "uasc or (u a s c)"][number // 2 % 3]
        for k, image in enumerate(images):
            picture(root / image, size, seed=number * 7 + k)
        records.append(
            {
                "sample_id": number,
                "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}],
                "image": images,
                "metadata": {"dataset": kind[0], "split": "train", "num_sample": rows, "question_type": kind[1]},
            }
        )
    return records


def m4_instruct(root, size=(64, 48), rows=24):
    records = m4_records(root, size, rows)
    other = {
        "sample_id": 0,
        "conversations": [{"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "a cat"}],
        "image": ["coco/1.jpg"],
        "metadata": {"dataset": "coco"},
    }
    (root / "m4_instruct_annotations.json").write_text(json.dumps([other, *records]))
    return root


def mars_eval(root, size=(64, 48)):
    """A few items in the form of each of the four published files, with their images."""

    def item(images, text, truth, sample_id=None):
        content = [{"type": "image", "image": f"data/images/{image}"} for image in images]
        entry = {"role": "user", "content": [*content, {"type": "text", "text": text}], "ground_truth": truth}
        return entry | ({} if sample_id is None else {"extra_info": {"sample_id": sample_id}})

    from verl_mars.data_prep._aligned import OFFICIAL

    pairs = []
    for stem, boxes in (("190001", [[12, 9, 28, 44]]), ("260044", [[1, 1, 20, 30], [30, 8, 64, 48]])):
        images = [f"LLVIP/visible/test/{stem}.jpg", f"LLVIP/infrared/test/{stem}.jpg"]
        picture(root / images[0], size, seed=int(stem))
        picture(root / images[1], size, seed=int(stem) + 1, boxes=boxes)
        pairs.append(item(images, OFFICIAL, boxes))
    images = ["SpatialQA/reach/1215.jpg", "SpatialQA/reach_d/1215.png"]
    picture(root / images[0], size)
    depth(root / images[1], size)
    tail = " The end of your output must be Yes or No."
    spatial = [item(images, f"Has she {n}touched it?{tail}", a) for n, a in (("", "No"), ("not ", "Yes"))]
    scenes, books = [], []
    for record in m4_records(root, size, 6):
        text = record["conversations"][0]["value"].replace("<image>", "")
        target = books if record["metadata"]["dataset"] == "OCR-VQA" else scenes
        target.append(item(record["image"], text, record["conversations"][1]["value"], record["sample_id"]))
    for name, items in (("llvip", pairs), ("spatialqa", spatial), ("nuscenes", scenes), ("OCR-VQA", books)):
        (root / f"{name}_eval.json").write_text(json.dumps(items, indent=4, ensure_ascii=False))
    return root


def sunrgbd(root, size=(64, 48)):
    from scipy.io import savemat

    def structs(items, names):
        array = np.empty((1, len(items)), dtype=[(name, object) for name in names])
        for i, values in enumerate(items):
            for name in names:
                array[0, i][name] = values[name]
        return array

    frames = [
        ("kv1/NYUdata/NYU0001", "NYU0001.jpg", [([5.5, 6.0, 30.0, 25.0], "bed"), ([40.0, 5.0, 10.0, 10.0], "lamp")]),
        ("kv2/kinect2data/000123_2014-05-26_14-23-37_260595134347_rgbf000103-resize", "0000103.jpg", []),
        ("xtion/sun3ddata/home/ha_1/0001", "0000001.jpg", [([50.0, 30.0, 40.0, 40.0], "night_stand")]),  # over the edge
        ("realsense/lg/2014_10_21-17_44_08", "0000003.jpg", [([2.0, 2.0, 20.0, 20.0], "chair")]),
    ]
    entries = []
    for number, (place, name, boxes) in enumerate(frames):
        picture(root / "SUNRGBD" / place / "image" / name, size, seed=number)
        target = root / "SUNRGBD" / place / "depth_bfx" / f"{Path(name).stem}_abs.png"
        depth(target, size, near=500 + 40 * number, rotate=True)
        truth = structs(
            [{"gtBb2D": np.array([box]), "classname": label} for box, label in boxes], ["gtBb2D", "classname"]
        )
        if not boxes:
            truth = np.empty((0, 0))
        sequence = f"/n/fs/sun3d/data/SUNRGBD/{place}"
        entries.append({"sequenceName": sequence, "rgbname": name, "groundtruth2DBB": truth})
    keys = ["sequenceName", "rgbname", "groundtruth2DBB"]
    savemat(root / "SUNRGBDMeta2DBB_v2.mat", {"SUNRGBDMeta2DBB": structs(entries, keys)})
    folder = root / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    folder.mkdir(parents=True)
    halves = {}
    for key, places in (("alltrain", (0, 1, 3)), ("alltest", (2,))):
        cells = np.empty((1, len(places)), dtype=object)
        for i, place in enumerate(places):
            cells[0, i] = f"/n/fs/sun3d/data/SUNRGBD/{frames[place][0]}/"
        halves[key] = cells
    savemat(folder / "allsplit.mat", halves)
    return root


def manifest(root, size=(64, 48), rows=6):
    """Own data: two sources, then six cameras, then sources with two images, own prompts and own truths."""
    lines = []
    for number in range(rows):
        picture(root / "rgb" / f"{number}.jpg", size, seed=number)
        depth(root / "depth" / f"{number}.png", size, near=300 + 50 * number)
        lines.append(
            {
                "id": number,
                "question": "Is the nearest thing on the left?",
                "answer": "yes" if number % 2 else "no",
                "group": f"room-{number // 2}",
                "sources": [
                    {"name": "rgb", "images": f"rgb/{number}.jpg", "label": "Photograph"},
                    {"name": "depth", "images": f"depth/{number}.png", "question": "Is the warmest part on the left?"},
                ],
            }
        )
    for k in range(6):
        picture(root / "cameras" / f"{k}.png", size, seed=50 + k)
    cameras = [{"name": f"camera_{k}", "images": f"cameras/{k}.png"} for k in range(6)]
    lines.append(
        {"id": "six", "question": "How many cars are there?", "count": 3, "split": "train", "sources": cameras}
    )
    lines.append(
        {
            "id": "mcq",
            "question": "What is it?",
            "letter": "B",
            "choices": ["a road", "a yard"],
            "sources": [{"name": "pages", "images": ["cameras/0.png", "cameras/1.png"], "question": "What is shown?"}],
        }
    )
    picture(root / "ir" / "small.png", (40, 32), seed=9, boxes=[(4, 4, 20, 20)], gray=True)
    lines.append(
        {
            "id": "unaligned",
            "question": "Detect every car.",
            "boxes": [[6, 6, 30, 28]],
            "labels": "car",
            "size": list(size),
            "sources": [
                {"name": "rgb", "images": "rgb/0.jpg"},
                {"name": "thermal", "images": "ir/small.png", "boxes": [[4, 4, 20, 20]], "labels": "car", "frame": 1},
            ],
        }
    )
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


SETS = {
    "llvip": llvip,
    "m3fd": m3fd,
    "m4_instruct": m4_instruct,
    "manifest": manifest,
    "mars_eval": mars_eval,
    "spatialbench": spatialbench,
    "sunrgbd": sunrgbd,
}


def make(name, root, **kwargs):
    root.mkdir(parents=True, exist_ok=True)
    return SETS[name](root, **kwargs)


def large_manifest(root, rows=60, wrong=()):
    """Two sources, one of them 16-bit depth, in pairs of rooms; rows in ``wrong`` miss an image."""
    for k in range(4):
        picture(root / f"rgb{k}.jpg", seed=k, quality=95)
    for k in range(5):
        depth(root / f"depth{k}.png", near=300 + 50 * k)
    lines = []
    for n in range(rows):
        rgb = "missing.jpg" if n in wrong else f"rgb{n % 4}.jpg"
        sources = [{"name": "rgb", "images": rgb}, {"name": "depth", "images": f"depth{n % 5}.png"}]
        lines.append({"id": n, "question": f"{n}?", "answer": str(n % 3), "group": f"g{n // 4}", "sources": sources})
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def row(pictures, size, index=0, extra=None, **columns):
    """A right row of two sources; keyword arguments replace its columns, ``extra`` keys of extra_info."""
    made = {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "<image><image>What is it?"}],
        "images": [{"image": str(path)} for path in pictures],
        "ability": "vqa",
        "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": ["a road"]})},
        "extra_info": {
            "index": index,
            "split": "train",
            "sample_id": f"s{index}",
            "task": "vqa",
            "sources": ["rgb", "ir"],
            "image_sizes": [list(size), list(size)],
            **(extra or {}),
        },
        "sources": [
            {"name": "rgb", "images": [0], "prompt": None, "ground_truth": None},
            {"name": "ir", "images": [1], "prompt": "<image>What?", "ground_truth": None},
        ],
    }
    return made | columns


def tree(folder):
    """Every file under a folder with the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
