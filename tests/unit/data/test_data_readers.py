"""Records of large JSON files, one by one."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.data import readers
from verl_mars.data.readers import json_records
from verl_mars.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


RECORDS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


@pytest.fixture(params=[1, 7, 2**18])
def chunk(request, monkeypatch):
    """Characters read at a time: every place of a cut is met."""
    monkeypatch.setattr(readers, "_CHUNK", request.param)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("chunk")
def test_an_array_gives_what_json_gives(tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "a.json"

    @settings(max_examples=40, deadline=None)
    @given(st.lists(RECORDS, max_size=5), st.sampled_from([None, 1]))
    def check(values, indent):
        write(path, json.dumps(values, indent=indent))
        assert list(json_records(path)) == values
        write(path, "\n".join(map(json.dumps, values)) + "\n")
        assert list(json_records(path)) == values

    check()


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "before", "says"),
    [
        ('[{"a": 1}, {"a": ', 1, "ends inside"),
        ('[{"a": 1}, {"a": 1} {"a": 1}]', 2, "expected"),
        ('[{"a": 1}', 1, "ends inside the array"),
        ('[{"a": 1}] x', 1, "after the end"),
        ('[{"a": NaN}]', 0, "NaN"),
        ('{"a": 1}\n{"a" 1}\n{"a": 1}', 1, "':'"),
        ('[{"a": "text without end]', 0, "ends inside"),
        ("[" * 10, 0, "object expected"),
        ("[1, 2]", 0, "object expected"),
        ('[{"a": ' + "[" * 5_000, 0, ""),
    ],
)
def test_broken_json_says_how_far_it_was_good(tmp_path, text, before, says):
    seen = []
    with pytest.raises(DataError, match=f"after {before} records") as caught:
        seen.extend(json_records(write(tmp_path / "a.json", text)))
    assert says in str(caught.value)


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": "\xff\xfe"}]')
    with pytest.raises(DataError, match="UTF-8"):
        list(json_records(path))


def test_a_byte_order_mark_and_an_empty_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert list(json_records(path)) == [{"a": 1}]
    assert list(json_records(write(path, ""))) == list(json_records(write(path, "[]"))) == []


def test_memory_does_not_grow_with_the_file(tmp_path):
    record = {"conversations": ["x" * 500], "image": ["a"] * 6}
    path = write(tmp_path / "a.json", json.dumps([record] * 20_000))
    tracemalloc.start()
    assert sum(1 for _ in json_records(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 3


def test_a_record_without_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_RECORD", 10_000)
    path = write(tmp_path / "a.json", '[{"a": "' + "x" * 2_000_000)
    with pytest.raises(DataError, match="no end"):
        list(json_records(path))
