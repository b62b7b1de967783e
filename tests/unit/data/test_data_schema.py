"""The row model and the writer for rows made elsewhere."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_mars.data import schema
from verl_mars.data.row_checks import KNOWN_COLUMNS, RESERVED_COLUMNS
from verl_mars.data.schema import ARROW_SCHEMA, ROW_GROUP_BYTES, RowModel, arrow_schema, validated, write_rows
from verl_mars.errors import DataError, SampleError


def test_rows_are_written_and_read_back(tmp_path, make_row):
    path = tmp_path / "a.parquet"
    rows = [make_row(0), RowModel.model_validate(make_row(1)), make_row(2)]
    assert write_rows(path, iter(rows), row_group_rows=2) == 3
    table = pq.read_table(path)
    assert table.schema.equals(ARROW_SCHEMA)
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    read = table.to_pylist()
    assert [row["extra_info"]["index"] for row in read] == [0, 1, 2]
    assert read[1]["prompt"] == make_row(1)["prompt"]
    assert read[1]["sources"] == make_row(1)["sources"]
    assert read[1]["images"] == make_row(1)["images"]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"images": []}, "blind", "text alone"),
        ({"sources": []}, "record", "sources"),
        ({"prompt": [{"role": "user", "content": "<image>"}]}, "image_count", "1 <image>, but 2 images"),
        ({"prompt": [{"role": "robot", "content": "<image><image>"}]}, "record", "role"),
        ({"reward_model": {"style": "rule", "ground_truth": "{}"}}, "ground_truth", "answers"),
        ({"reward_model": {"style": "rule", "ground_truth": ["a"]}}, "record", "ground_truth"),
        ({"rm_scores": 1.0}, "column", "rm_scores"),
        ({"extra": {"task": "detect"}}, "task", "task"),
        ({"extra": {"index": None}}, "record", "index"),
        ({"extra": {"sources": ["ir", "rgb"]}}, "source_name", "same order"),
        ({"extra": {"image_sizes": [[64, 48]]}}, "image_sizes", "1 sizes for 2 images"),
    ],
)
def test_a_wrong_row_is_refused_and_nothing_is_left(tmp_path, make_row, change, code, says):
    path = tmp_path / "a.parquet"
    with pytest.raises(SampleError) as caught:
        write_rows(path, [make_row(0), make_row(1, **change)])
    assert caught.value.code == code
    assert "row 1" in str(caught.value) and says in str(caught.value)
    assert not list(tmp_path.glob("a.parquet*"))


def test_row_groups_stay_small_whatever_the_rows_hold(tmp_path, make_row, images, monkeypatch):
    held = {"bytes": images[0].read_bytes(), "path": "a.jpg"}
    monkeypatch.setattr(schema, "ROW_GROUP_BYTES", 10 * 2 * len(held["bytes"]))
    rows = [make_row(k, images=[held, held]) for k in range(35)]
    write_rows(tmp_path / "a.parquet", rows, schema=arrow_schema(embed=True))
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    groups = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
    assert sum(groups) == 35 and max(groups) <= 10 and len(groups) <= 5
    long = [make_row(k, prompt=[{"role": "user", "content": "<image><image>" + "图" * 10_000}]) for k in range(50)]
    write_rows(tmp_path / "b.parquet", long)
    assert pq.ParquetFile(tmp_path / "b.parquet").metadata.num_row_groups > 5
    large = make_row(0, prompt=[{"role": "user", "content": "<image><image>" + "a" * 1_000_000}])
    assert write_rows(tmp_path / "c.parquet", [large, make_row(1)]) == 2  # larger than a group: alone in its own


def test_an_existing_file_stays_when_the_new_rows_are_wrong(tmp_path, make_row):
    path = tmp_path / "a.parquet"
    write_rows(path, [make_row(0)])
    before = path.read_bytes()
    with pytest.raises(SampleError):
        write_rows(path, [make_row(1), make_row(2, sources=[])])
    assert path.read_bytes() == before


@pytest.mark.parametrize(("again", "code"), [({"index": 0}, "index"), ({"sample_id": "s0"}, "duplicate_id")])
def test_rows_with_one_index_or_one_id_are_refused(tmp_path, make_row, again, code):
    with pytest.raises(SampleError) as caught:
        write_rows(tmp_path / "a.parquet", [make_row(0), make_row(1, extra=again)])
    assert caught.value.code == code and "row 1" in str(caught.value)


def test_a_key_without_a_type_is_refused_because_arrow_would_drop_it(tmp_path, make_row):
    assert pa.Table.from_pylist([{"a": 1, "b": 2}], schema=pa.schema({"a": pa.int64()})).column_names == ["a"]
    row = make_row(0, extra={"regime": "conflicting"})
    with pytest.raises(DataError, match="extra_info.regime has no type"):
        write_rows(tmp_path / "a.parquet", [row])
    schema = arrow_schema(extra_info={"regime": pa.string()}, columns={"agent_name": pa.string()})
    write_rows(tmp_path / "a.parquet", [row | {"agent_name": "single_turn_agent"}], schema=schema)
    read = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert read["extra_info"]["regime"] == "conflicting" and read["agent_name"] == "single_turn_agent"


def test_a_value_of_another_type_is_told_with_its_row(tmp_path, make_row):
    schema = arrow_schema(extra_info={"difficulty": pa.int64()})
    rows = [make_row(k, extra={"difficulty": "hard" if k == 5 else k}) for k in range(9)]
    with pytest.raises(DataError, match="^row 5: .*hard"):
        write_rows(tmp_path / "a.parquet", rows, schema=schema)
    assert not list(tmp_path.glob("a.parquet*"))


def test_a_column_without_a_type_is_refused(tmp_path, make_row):
    with pytest.raises(DataError, match="difficulty has no type"):
        write_rows(tmp_path / "a.parquet", [make_row(0, difficulty=3)])


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        write_rows(tmp_path / "a.parquet", [])
    assert not list(tmp_path.iterdir())


def test_columns_with_taken_names_have_no_schema():
    assert not RESERVED_COLUMNS & KNOWN_COLUMNS
    with pytest.raises(ValueError, match="rm_scores"):
        arrow_schema(columns={"rm_scores": pa.float32()})
    with pytest.raises(ValueError, match="images"):
        arrow_schema(columns={"images": pa.string()})


def test_images_keep_only_the_keys_that_are_set(make_row):
    row = validated(make_row(0, images=[{"image": "/a.png", "path": None}, {"image": "/b.png", "max_pixels": 9}]))
    assert row.as_record()["images"] == [{"image": "/a.png"}, {"image": "/b.png", "max_pixels": 9}]


def test_embedded_images_and_pixel_limits_have_their_types():
    image = arrow_schema(embed=True, pixel_limits=True).field("images").type.value_type
    assert {field.name: field.type for field in image} == {
        "bytes": pa.binary(),
        "path": pa.string(),
        "min_pixels": pa.int64(),
        "max_pixels": pa.int64(),
    }
    assert ROW_GROUP_BYTES == 128 * 2**20
