"""check_files: one right file, and every kind of fault in its place."""

import ast
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from verl_mars.data import check as module
from verl_mars.data.check import check_files
from verl_mars.data.cures import CURES
from verl_mars.data.row_checks import RowRules
from verl_mars.data.schema import ARROW_SCHEMA, arrow_schema, write_rows
from verl_mars.errors import DataError, SampleError


def write(path, rows, schema=ARROW_SCHEMA):
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return str(path)


def codes(report):
    return dict(report.counts)


def test_right_files_have_no_fault(tmp_path, make_row):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_rows(files[0], [make_row(i) for i in range(5)])
    lone = [{"name": "rgb", "images": [0, 1], "prompt": None, "ground_truth": None}]
    write_rows(files[1], [make_row(7, sources=lone, extra={"sources": ["rgb"]})])
    report = check_files(files, max_images=2)
    assert report.ok and report.rows == 6 and report.images_per_row_max == 2 and report.single_source_rows == 1
    assert report.faults == [] and "one source" in report.notes[0]
    report.raise_faults()


IMAGE_PAIR = "<image><image>"
SOURCE = {"name": "rgb", "images": [0], "prompt": None, "ground_truth": None}


def test_videos_beside_images_need_prompts_of_the_sources(make_row):
    def problems(row, **rules):
        return [problem.message for problem in RowRules(**rules).problems(row) if problem.code == "videos"]

    row = make_row(0, videos=["/film.mp4"])
    (message,) = problems(row)
    assert "a session of one source would still be shown the videos" in message
    assert problems(row, need_sources=False) == [], "a run without anchors has no such session"
    row["sources"][0]["prompt"] = "<image>What?"
    assert problems(row) == []


def test_what_tools_get_is_said_a_source(tmp_path, make_row):
    shown = {"zoom": {"images": ["rgb", "ir"]}}
    row = make_row(0, extra={"tools_kwargs": shown})
    found = {problem.key: problem.message for problem in RowRules().problems(row) if problem.code == "tools"}
    assert set(found) == {"sources[0].tools_kwargs", "sources[1].tools_kwargs"}
    assert "could show a session of this source the others" in found["sources[0].tools_kwargs"]
    for source, said in zip(row["sources"], ('{"zoom": {"images": ["rgb"]}}', "[1]"), strict=True):
        source["tools_kwargs"] = said
    problems = [problem for problem in RowRules().problems(row) if problem.code == "tools"]
    assert [problem.key for problem in problems] == ["sources[1].tools_kwargs"] and "'[1]'" in problems[0].message
    row["sources"][1]["tools_kwargs"] = "{}"
    zoom = pa.struct({"zoom": pa.struct({"images": pa.list_(pa.string())})})
    schema = arrow_schema(tools=True, extra_info={"tools_kwargs": zoom})
    write_rows(tmp_path / "a.parquet", [row], schema=schema)
    assert check_files([tmp_path / "a.parquet"]).ok
    written = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["sources"]
    assert [source["tools_kwargs"] for source in written] == ['{"zoom": {"images": ["rgb"]}}', "{}"]


@pytest.mark.parametrize(
    ("change", "code", "key", "says"),
    [
        ({"images": []}, "blind", "prompt", "text alone"),
        ({"images": None}, "blind", "prompt", "text alone"),
        ({"sources": None}, "no_sources", "sources", "no anchors"),
        ({"sources": []}, "no_sources", "sources", "no mono views"),
        ({"sources": [{**SOURCE, "images": [2]}]}, "source_images", "sources[0].images", "0 to 1 are allowed"),
        ({"sources": [{**SOURCE, "images": [-1]}]}, "source_images", "sources[0].images", "image -1"),
        ({"sources": [{**SOURCE, "images": []}]}, "source_images", "sources[0].images", "[]"),
        ({"sources": [{**SOURCE, "images": [0, 0]}]}, "source_images", "sources[0].images", "twice"),
        ({"sources": [SOURCE, {**SOURCE, "images": [1]}]}, "source_name", "sources[0].name", "2 times"),
        ({"sources": [{**SOURCE, "name": " "}]}, "source_name", "sources[0].name", "' '"),
        ({"sources": [SOURCE], "extra": {"sources": ["ir"]}}, "source_name", "extra_info.sources", "['ir']"),
        ({"sources": [{**SOURCE, "prompt": "What?"}]}, "source_prompt", "sources[0].prompt", "0 <image>"),
        ({"sources": [{**SOURCE, "prompt": "<image><audio>"}]}, "media_tag", "sources[0].prompt", "<audio>"),
        ({"prompt": [{"role": "user", "content": "<image>"}]}, "image_count", "prompt", "1 <image>, but 2 images"),
        ({"prompt": [{"role": "user", "content": IMAGE_PAIR * 2}]}, "image_count", "prompt", "4 <image>"),
        (
            {"prompt": [{"role": "user", "content": IMAGE_PAIR + "<video>"}]},
            "media_tag",
            "prompt[0].content",
            "<video>",
        ),
        ({"prompt": []}, "prompt", "prompt", "list of {role, content}"),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt", "prompt[0]", "NoneType"),
        ({"data_source": None}, "missing_column", "data_source", "None"),
        ({"extra": {"index": None}}, "index", "extra_info.index", "traces merge"),
        ({"extra": {"image_sizes": [[64, 48]]}}, "image_sizes", "extra_info.image_sizes", "1 sizes"),
        ({"extra": {"image_sizes": [[64, 48], [32, 24]]}}, "size_mismatch", "images[1]", "32"),
        ({"extra": {"task": None}}, "task", "extra_info.task", "None"),
        ({"extra": {"task": "detect"}}, "task", "extra_info.task", "'detect'"),
        ({"reward_model": {"ground_truth": "yes"}}, "ground_truth", "reward_model.ground_truth", "no JSON"),
        ({"reward_model": {"ground_truth": None}}, "ground_truth", "reward_model.ground_truth", "NoneType"),
        ({"reward_model": None}, "ground_truth", "reward_model.ground_truth", "NoneType"),
        ({"sources": [{**SOURCE, "ground_truth": "{}"}]}, "ground_truth", "sources[0].ground_truth", "answers"),
        ({"images": [{"image": "a.png"}, {"image": "/no.png"}]}, "relative_path", "images[0]", "Ray worker"),
        ({"images": [{"image": None}, {"image": None}]}, "images_type", "images[0]", "`image` with a path"),
    ],
)
def test_each_fault_of_a_row_is_found_where_it_is(tmp_path, make_row, change, code, key, says):
    change = dict(change)
    extra = change.pop("extra", None)
    file = write(tmp_path / "a.parquet", [make_row(0), make_row(1, extra=extra, **change)])
    report = check_files([file])
    found = [fault for fault in report.faults if fault.code == code]
    assert found, report.text()
    assert found[0].row == 1 and found[0].file == file
    assert any(fault.key.startswith(key) and says in str(fault) for fault in found), report.text()
    assert all(fault.row == 1 for fault in report.faults)
    with pytest.raises(DataError, match="row 1"):
        report.raise_faults()


def test_grounding_truths_must_fit_their_image(tmp_path, make_row):
    def row(index, extra=None, **change):
        truth = {"boxes": [[1, 2, 30, 40]], "labels": ["car"], "frame": 0, "size": [64, 48]} | change
        reward = {"style": "rule", "ground_truth": json.dumps(truth)}
        return make_row(index, extra={"task": "grounding", **(extra or {})}, reward_model=reward)

    own = {**SOURCE, "ground_truth": row(0, frame=1)["reward_model"]["ground_truth"]}
    alone = row(4) | {"sources": [own, {**SOURCE, "name": "ir", "images": [1]}]}
    rows = [row(0), row(1, frame=2), row(2, size=[32, 48]), row(3, boxes=[[1, 2, 1, 5]]), alone]
    report = check_files(write(tmp_path / "a.parquet", rows))
    assert {(fault.row, fault.code) for fault in report.faults} == {
        (1, "box"),
        (2, "size_mismatch"),
        (3, "zero_area"),
        (4, "box"),  # a source's truth must be about its own image
    }


def test_image_files_are_opened_once_and_their_faults_told(tmp_path, make_row, images, monkeypatch):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((48, 64), 900, np.uint16)).save(deep)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(images[0].read_bytes()[:-300])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    pairs = [(deep, cut), (broken, tmp_path / "missing.jpg")]
    rows = [make_row(i, images=[{"image": str(path)} for path in pair]) for i, pair in enumerate(pairs)]
    file = write(tmp_path / "a.parquet", rows * 1 + [make_row(i) for i in range(2, 9)])
    opened = []
    look = module._look
    monkeypatch.setattr(module, "_look", lambda source: opened.append(source) or look(source))
    report = check_files([file])
    assert [(f.row, f.key, f.code) for f in report.faults] == [
        (0, "images[0]", "sixteen_bit"),
        (0, "images[1]", "truncated_image"),
        (1, "images[0]", "broken_image"),
        (1, "images[1]", "missing_image"),
    ]
    assert len(opened) == len(set(opened)) == 6
    assert check_files([file], open_images=False).ok


def test_images_elsewhere_are_counted_not_opened(tmp_path, make_row, images):
    kinds = [{"image": "https://example.org/a.jpg"}, {"image": f"file://{images[0]}"}]
    report = check_files(write(tmp_path / "a.parquet", [make_row(0, images=kinds)]))
    assert report.ok and report.remote_images == 1 and "not opened" in report.text()


def test_embedded_images_are_read_from_the_row(tmp_path, make_row, images):
    schema = arrow_schema(embed=True)
    right = [{"bytes": path.read_bytes(), "path": path.name} for path in images]
    rows = [
        make_row(0, images=right),
        make_row(1, images=[right[0], {"bytes": None, "path": str(images[1])}]),
        make_row(2, images=[right[0], {"bytes": right[1]["bytes"][:-300], "path": None}]),
    ]
    report = check_files(write(tmp_path / "a.parquet", rows, schema))
    assert [(f.row, f.key, f.code) for f in report.faults] == [
        (1, "images[1]", "images_type"),
        (2, "images[1]", "truncated_image"),
    ]


@pytest.mark.parametrize(
    ("kind", "values", "code"),
    [
        (pa.list_(pa.binary()), [b"x", b"y"], "images_type"),
        (pa.string(), "/data/a_picture.png", "images_type"),
        (pa.list_(pa.struct({"path": pa.string()})), [{"path": "/a.png"}] * 2, "images_type"),
    ],
)
def test_images_of_another_type(tmp_path, make_row, kind, values, code):
    schema = ARROW_SCHEMA.set(ARROW_SCHEMA.get_field_index("images"), pa.field("images", kind))
    report = check_files(write(tmp_path / "a.parquet", [make_row(0, images=values)], schema))
    assert report.counts[code] and report.faults[0].row == 0


def test_resized_keys_must_be_there_in_every_row(tmp_path, make_row, images):
    entry = pa.struct({"image": pa.string(), "resized_height": pa.int64(), "resized_width": pa.int64()})
    field = pa.field("images", pa.list_(entry))
    schema = ARROW_SCHEMA.set(ARROW_SCHEMA.get_field_index("images"), field)
    sized = [{"image": str(path), "resized_height": 28, "resized_width": 28} for path in images]
    rows = [make_row(0, images=sized), make_row(1, images=[sized[0], {**sized[1], "resized_width": None}])]
    report = check_files(write(tmp_path / "a.parquet", rows, schema))
    assert [(f.row, f.key, f.code) for f in report.faults] == [(1, "images[1]", "images_type")]


def test_structured_content_is_refused(tmp_path, make_row):
    part = pa.list_(pa.struct({"type": pa.string(), "text": pa.string()}))
    message = pa.list_(pa.struct({"role": pa.string(), "content": part}))
    schema = ARROW_SCHEMA.set(ARROW_SCHEMA.get_field_index("prompt"), pa.field("prompt", message))
    row = make_row(0, prompt=[{"role": "user", "content": [{"type": "image", "text": None}]}])
    assert check_files(write(tmp_path / "a.parquet", [row], schema)).counts["prompt"] == 1


def test_an_image_column_by_another_name(tmp_path, make_row):
    table = pa.Table.from_pylist([make_row(0)], schema=ARROW_SCHEMA)
    path = tmp_path / "a.parquet"
    pq.write_table(table.rename_columns([{"images": "pictures"}.get(name, name) for name in table.column_names]), path)
    assert check_files(path).counts["blind"] == 1  # as with a misspelt data.image_key
    assert check_files(path, image_key="pictures").ok


@pytest.mark.parametrize("name", ["session_id", "rm_scores", "index", "anchor_scores", "uid"])
def test_columns_with_taken_names(tmp_path, make_row, name):
    schema = ARROW_SCHEMA.append(pa.field(name, pa.int64()))
    report = check_files(write(tmp_path / "a.parquet", [make_row(0) | {name: 1}], schema))
    assert [(f.row, f.key, f.code) for f in report.faults] == [(None, name, "column")]


def test_missing_columns_are_named(tmp_path, make_row):
    table = pa.Table.from_pylist([make_row(0)], schema=ARROW_SCHEMA).drop_columns(["reward_model"])
    pq.write_table(table, tmp_path / "a.parquet")
    report = check_files(tmp_path / "a.parquet")
    assert (None, "reward_model", "missing_column") in [(f.row, f.key, f.code) for f in report.faults]


def test_one_index_twice_in_a_file_is_a_fault_and_in_two_files_is_none(tmp_path, make_row):
    twice = write(tmp_path / "a.parquet", [make_row(3), make_row(3)])
    assert codes(check_files([twice])) == {"index": 1}
    files = [write(tmp_path / f"{n}.parquet", [make_row(3)]) for n in "bc"]
    assert check_files(files).ok


def test_types_that_cannot_be_put_together(tmp_path, make_row, images):
    first = write(tmp_path / "a.parquet", [make_row(0)])
    plain = pa.schema([*(f for f in ARROW_SCHEMA if f.name != "images"), pa.field("images", pa.list_(pa.string()))])
    second = write(tmp_path / "b.parquet", [make_row(0, images=[str(path) for path in images])], plain)
    limited = write(tmp_path / "c.parquet", [make_row(0)], arrow_schema(pixel_limits=True))
    more = write(tmp_path / "d.parquet", [make_row(0)], arrow_schema(extra_info={"regime": pa.string()}))
    report = check_files([first, second, limited, more])
    assert [(f.file, f.key, f.code) for f in report.faults] == [
        (second, "images", "types"),
        (limited, "images", "types"),
    ]
    assert first in str(report.faults[0])


def test_other_columns_of_verl_are_let_through(tmp_path, make_row):
    schema = arrow_schema(columns={"agent_name": pa.string(), "priority": pa.int64(), "__rollout_n__": pa.int64()})
    row = make_row(0) | {"agent_name": "single_turn_agent", "priority": 1, "__rollout_n__": 4}
    assert check_files(write(tmp_path / "a.parquet", [row], schema)).ok


def test_a_limit_of_images(tmp_path, make_row):
    file = write(tmp_path / "a.parquet", [make_row(0)])
    report = check_files([file], max_images=1)
    assert codes(report) == {"too_many_images": 1} and "limit_images" in report.text()


def test_sources_and_truths_may_be_somebody_elses_business(tmp_path, make_row):
    row = make_row(0, sources=None, reward_model={"style": "model", "ground_truth": "yes"}, extra={"task": None})
    file = write(tmp_path / "a.parquet", [row])
    assert set(check_files([file]).counts) == {"no_sources", "task"}
    assert check_files([file], need_sources=False, check_truth=False).ok


def test_a_row_group_that_datasets_cannot_read(tmp_path, make_row, images, monkeypatch):
    rows = [make_row(0, images=[{"bytes": path.read_bytes(), "path": path.name} for path in images])]
    file = write(tmp_path / "a.parquet", rows, arrow_schema(embed=True))
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 100)
    assert "advised" in check_files([file]).notes[0]
    monkeypatch.setattr(module, "UNREADABLE_BYTES", 300)
    assert check_files([file]).counts["row_group"] == 1


def test_json_and_json_lines_are_checked_alike(tmp_path, make_row):
    rows = [make_row(0), make_row(1, images=[])]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    array = tmp_path / "a.json"
    array.write_text(json.dumps(rows))
    for file in (lines, array):
        report = check_files([file])
        assert report.rows == 2 and report.counts["blind"] == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"PAR1" + bytes(100)])
def test_a_file_that_is_not_whole(tmp_path, make_row, content):
    good = write(tmp_path / "a.parquet", [make_row(0)])
    bad = tmp_path / "b.parquet"
    bad.write_bytes(content)
    report = check_files([good, bad])
    assert [(f.file, f.code) for f in report.faults] == [(str(bad), "file")] and report.rows == 1


def test_a_file_without_rows(tmp_path):
    assert check_files(write(tmp_path / "a.parquet", [])).counts["file"] == 1


def test_what_verl_would_not_take_as_files_is_refused_at_once(tmp_path, make_row):
    write(tmp_path / "a.parquet", [make_row(0)])
    for files, says in (
        ([], "no data files"),
        (str(tmp_path), "folder"),
        (str(tmp_path / "*.parquet"), "pattern"),
        (str(tmp_path / "no.parquet"), "does not exist"),
        ("hdfs://host/a.parquet", "hash of the name"),
    ):
        with pytest.raises(DataError, match=says):
            check_files(files)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match="csv"):
        check_files(str(tmp_path / "a.csv"))


def test_a_pattern_is_told_with_what_it_matches(tmp_path, make_row):
    with pytest.raises(DataError, match="no file matches it"):
        check_files([str(tmp_path / "*.parquet")])
    write_rows(tmp_path / "a.parquet", [make_row(0)])
    with pytest.raises(DataError, match="it matches .*a.parquet"):
        check_files([str(tmp_path / "*.parquet")])


def test_faults_are_all_counted_and_some_told(tmp_path, make_row):
    rows = [make_row(i, images=[]) for i in range(50)] + [make_row(60, sources=None)]
    report = check_files(write(tmp_path / "a.parquet", rows), max_faults=5)
    assert report.counts["blind"] == 50
    assert {fault.code for fault in report.faults} == set(report.counts)  # each kind at least once
    assert "more faults" in report.text() and report.faults[0].cure in report.text()


def test_every_problem_has_a_cure():
    used = set()
    for file in Path(module.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("SampleError", "Problem", "Fault"):
                used |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    assert len(used) > 20 and used <= set(CURES)
    assert all(cure.endswith(".") for cure in CURES.values())
    error = pickle.loads(pickle.dumps(SampleError("box", "wrong", "boxes[0]")))
    assert error.code == "box" and str(error) == "boxes[0]: wrong"


@pytest.mark.slow
def test_a_row_of_any_form_raises_nothing(tmp_path):
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from verl_mars.data.row_checks import RowRules

    leaf = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5) | st.floats() | st.binary(max_size=3)
    anything = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=5
    )
    keyed = st.dictionaries(
        st.sampled_from(["name", "images", "prompt", "ground_truth", "index", "task", "sources"]), anything
    )
    column = anything | keyed | st.lists(keyed, max_size=3)
    names = ["prompt", "images", "extra_info", "sources", "reward_model", "data_source"]

    @settings(max_examples=60, deadline=None)
    @given(st.fixed_dictionaries({name: column for name in names}))
    def check(row):
        for problem in RowRules(max_images=1).problems(row):
            assert problem.message

    check()


def test_memory_stays_small(tmp_path, make_row):
    import resource

    rows = 3_000
    write_rows(tmp_path / "a.parquet", (make_row(i) for i in range(rows)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert check_files(tmp_path / "a.parquet").rows == rows
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
