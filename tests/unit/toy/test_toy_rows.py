import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from verl_mars.data.check import check_files
from verl_mars.data.schema import RowModel
from verl_mars.toy import world
from verl_mars.toy.rows import write_split
from verl_mars.views import sources_of_row


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_rows_keep_to_the_schema_and_the_checks_of_every_other_data_set(toy_folder: Path) -> None:
    report = check_files([str(toy_folder / "heldout.parquet")], max_images=2)
    assert (report.rows, report.faults, report.single_source_rows, report.images_per_row_max) == (12, [], 0, 2)
    for row in pq.read_table(toy_folder / "heldout.parquet").to_pylist():
        RowModel.model_validate(row)


def test_a_row_says_what_the_scene_is(toy_folder: Path, scenes: world.Scenes) -> None:
    for number, row in enumerate(pq.read_table(toy_folder / "heldout.parquet").to_pylist()):
        assert row["data_source"] == "toy_multisource"
        assert row["prompt"] == [{"role": "user", "content": "<image><image>" + scenes.question(number)}]
        assert json.loads(row["reward_model"]["ground_truth"]) == {"answers": [scenes.answer(number)]}
        info = row["extra_info"]
        assert (info["index"], info["split"], info["sample_id"]) == (number, "heldout", f"heldout-{number:05d}")
        assert (info["task"], info["image_sizes"]) == ("vqa", [[56, 56], [56, 56]])
        assert (info["regime"], info["question"]) == (scenes.regime_name(number), scenes.question(number))
        assert tuple(info["sufficient"]) == scenes.sufficient(number)
        sources = sources_of_row(row)
        assert [(s.name, s.images, s.prompt, s.ground_truth) for s in sources] == [
            (name, (place,), None, None) for place, name in enumerate(scenes.source_names(number))
        ]
        for place, image in enumerate(row["images"]):
            path = Path(image["image"])
            assert path.is_absolute() and scenes.source_names(number)[place] in path.name
            with Image.open(path) as picture:
                np.testing.assert_array_equal(np.asarray(picture), scenes.images[number, place])


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("one", "two"):
        write_split(world.make_scenes(6, 1), "val", tmp_path / name, home)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")
    assert len(_contents(tmp_path / "one")) == 13


def test_rows_name_pictures_where_the_folder_will_lie(tmp_path: Path) -> None:
    file = write_split(world.make_scenes(2, 1), "val", tmp_path / "work", tmp_path / "home")
    paths = [image["image"] for row in pq.read_table(file).to_pylist() for image in row["images"]]
    assert all(path.startswith(str(tmp_path / "home" / "images" / "val")) for path in paths)
