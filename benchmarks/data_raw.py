"""Raw data for ``benchmarks/data.py``: pictures like real ones, a manifest of pairs, and LLVIP's layout."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (1280, 1024)
PICTURES = 300
VOC = (
    "<annotation><size><width>1280</width><height>1024</height><depth>3</depth></size><object><name>person</name>"
    "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>320</ymax></bndbox></object></annotation>"
)


def make_pictures(folder: Path) -> None:
    """Noisy pictures that compress as badly as real ones."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        noise = rng.normal(0, 9, (SIZE[1], SIZE[0], 3))
        shape = np.linspace(20, 200, SIZE[0])[None, :, None] + np.linspace(0, 40, SIZE[1])[:, None, None]
        Image.fromarray(np.clip(shape + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=70)


def make_raw(pictures: Path, rows: int, root: Path) -> None:
    """A manifest of pairs, and LLVIP's layout over the same pictures."""
    for folder in ("visible/train", "infrared/train", "Annotations"):
        (root / folder).mkdir(parents=True)
    with open(root / "manifest.jsonl", "w") as manifest:
        for number in range(rows):
            names = []
            for kind, shift in (("visible", 0), ("infrared", 1)):
                name = f"{kind}/train/{number:06d}.jpg"
                os.link(pictures / f"{(2 * number + shift) % PICTURES}.jpg", root / name)
                names.append({"name": kind, "images": name})
            (root / "Annotations" / f"{number:06d}.xml").write_text(VOC)
            question = f"Is person {number} to be seen?"
            manifest.write(json.dumps({"id": number, "question": question, "answer": "yes", "sources": names}) + "\n")
