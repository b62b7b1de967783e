"""Scenes as training rows: PNG files, and one row of parquet for each scene in the project's row schema."""

import json
from pathlib import Path

import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from verl_mars.data.schema import arrow_schema, write_rows
from verl_mars.fields import FieldDict
from verl_mars.toy.world import IMAGES, SIZE, Scenes

DATA_SOURCE = "toy_multisource"

# In addition to every row's columns: for grouping the evaluation, and for readers of the file.
_SCHEMA = arrow_schema(
    extra_info={"regime": pa.string(), "thought": pa.string(), "sufficient": pa.list_(pa.string())},
)


def write_split(scenes: Scenes, split: str, folder: Path, home: Path | None = None, progress: bool = False) -> Path:
    """Write ``<folder>/<split>.parquet`` and its pictures under ``<folder>/images/<split>/``.

    Args:
        scenes: one row each.
        split: name of the split.
        folder: where the files are written.
        home: final place of `folder` if it will be moved; the rows name their pictures by absolute path there.
        progress: show a bar.

    Returns:
        The path of the parquet file.
    """
    pictures = folder / "images" / split
    pictures.mkdir(parents=True)
    at_home = (home or folder).resolve() / "images" / split
    rows = []
    for row in tqdm(range(len(scenes)), f"toy files: {split}", disable=not progress, unit="scene"):
        names = [f"{row:05d}_{source}.png" for source in scenes.source_names(row)]
        for name, pixels in zip(names, scenes.images[row], strict=True):
            # Noise does not compress: the fastest level loses nothing.
            Image.fromarray(pixels).save(pictures / name, compress_level=1)
        rows.append(make_row(scenes, row, split, [str(at_home / name) for name in names]))
    file = folder / f"{split}.parquet"
    write_rows(file, rows, schema=_SCHEMA)
    return file


def make_row(scenes: Scenes, row: int, split: str, images: list[str]) -> FieldDict:
    """One scene in the project's row schema; `images` are the paths of its pictures."""
    names = list(scenes.source_names(row))
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": "<image>" * IMAGES + scenes.question(row)}],
        "images": [{"image": path} for path in images],
        "ability": "visual_question_answering",
        "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": [scenes.answer(row)]})},
        "extra_info": {
            "index": row,
            "split": split,
            "sample_id": f"{split}-{row:05d}",
            "task": "vqa",
            "sources": names,
            "image_sizes": [[SIZE, SIZE]] * IMAGES,
            "regime": scenes.regime_name(row),
            "question": scenes.question(row),
            "thought": scenes.thought(row),
            "sufficient": list(scenes.sufficient(row)),
        },
        "sources": [
            {"name": name, "images": [number], "prompt": None, "ground_truth": None}
            for number, name in enumerate(names)
        ],
    }
