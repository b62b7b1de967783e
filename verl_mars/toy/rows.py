"""Scenes as verl's training rows: pictures as PNG files, one row of parquet to a scene, in the project's row schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from verl_mars.toy.world import IMAGES, SIZE, Scenes

DATA_SOURCE = "toy_multisource"

_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.struct({"image": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {
                "index": pa.int64(),
                "split": pa.string(),
                "sample_id": pa.string(),
                "task": pa.string(),
                "sources": pa.list_(pa.string()),
                "image_sizes": pa.list_(pa.list_(pa.int64())),
                "regime": pa.string(),
                "question": pa.string(),
                "thought": pa.string(),
                "sufficient": pa.list_(pa.string()),
            }
        ),
        "sources": pa.list_(
            pa.struct(
                {
                    "name": pa.string(),
                    "images": pa.list_(pa.int64()),
                    "prompt": pa.string(),
                    "ground_truth": pa.string(),
                }
            )
        ),
    }
)


def write_split(scenes: Scenes, split: str, folder: Path, home: Path | None = None) -> Path:
    """Write `<folder>/<split>.parquet` and its pictures under `<folder>/images/<split>/`.

    The rows name the pictures by absolute path. `home`: where `folder` will lie when it is finished, if that is
    elsewhere. Returns the path of the parquet file.
    """
    pictures = folder / "images" / split
    pictures.mkdir(parents=True)
    at_home = (home or folder).resolve() / "images" / split
    rows = []
    for row in range(len(scenes)):
        names = [f"{row:05d}_{source}.png" for source in scenes.source_names(row)]
        for name, pixels in zip(names, scenes.images[row], strict=True):
            # Noise does not compress: the fastest level loses nothing.
            Image.fromarray(pixels).save(pictures / name, compress_level=1)
        rows.append(make_row(scenes, row, split, [str(at_home / name) for name in names]))
    file = folder / f"{split}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file)
    return file


def make_row(scenes: Scenes, row: int, split: str, images: list[str]) -> dict[str, Any]:
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
