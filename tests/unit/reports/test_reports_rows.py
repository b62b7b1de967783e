"""The page of rows, and the writer of pages."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jinja2 import UndefinedError
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data.schema import ARROW_SCHEMA, write_rows
from verl_mars.errors import DataError, SampleError
from verl_mars.reports.page import environment, picture, render, write_page
from verl_mars.reports.rows import pick_rows, write_rows_page

SOURCES = [{"name": name, "images": [k], "prompt": None, "ground_truth": None} for k, name in enumerate(("rgb", "ir"))]
EXTRA = {
    "image_sizes": [[400, 280]] * 2,
    "index": 0,
    "split": "train",
    "sample_id": "0",
    "task": "vqa",
    "sources": ["rgb", "ir"],
}


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "rgb.png", tmp_path / "ir.jpg"]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (280, 400, 3), np.uint8)).save(path)
    return [{"image": str(path)} for path in paths]


def row(images, truth=None, sources=SOURCES, **values):
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": "<image><image>Is it?"}],
        "images": images,
        "ability": "x",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth or {"answers": ["yes"]})},
        "extra_info": {**EXTRA, "image_sizes": [[400, 280]] * len(images)},
        "sources": sources,
    } | values


def page_of(tmp_path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows), schema=ARROW_SCHEMA), tmp_path / "a.parquet")
    return write_rows_page([str(tmp_path / "a.parquet")], tmp_path / "rows.html").read_text(encoding="utf-8")


def placed(html):
    """Left, top, width, height in percent, and whether thin, of all boxes."""
    found = re.findall(r'class="box h\d( thin)?".*?left: (.*?)%; top: (.*?)%; width: (.*?)%; height: (.*?)%', html)
    return [(*map(float, numbers), bool(thin)) for thin, *numbers in found]


def test_boxes_lie_where_they_are_and_dashed_on_an_aligned_source(tmp_path, images):
    truth = {"boxes": [[100, 70, 200, 140]], "labels": ["car"], "frame": 0, "size": [400, 280]}
    html = page_of(tmp_path, row(images, truth))
    assert placed(html) == [(25.0, 25.0, 25.0, 25.0, False), (25.0, 25.0, 25.0, 25.0, True)]
    assert "1 car" in html and "boxes of image 0" in html


def test_a_source_with_its_own_truth_has_its_own_boxes(tmp_path, images):
    truth = {"boxes": [[0, 0, 200, 140]], "labels": ["car"], "frame": 0, "size": [400, 280]}
    own = {"boxes": [[40, 28, 80, 56]], "labels": ["car"], "frame": 1, "size": [400, 280]}
    sources = [SOURCES[0], {**SOURCES[1], "ground_truth": json.dumps(own)}]
    assert placed(page_of(tmp_path, row(images, truth, sources))) == [
        (0.0, 0.0, 50.0, 50.0, False),
        (10.0, 10.0, 10.0, 10.0, False),
    ]


def test_boxes_of_an_image_of_another_size_are_not_drawn_on_it(tmp_path, images):
    Image.new("RGB", (40, 40)).save(images[1]["image"])
    truth = {"boxes": [[0, 0, 200, 140]], "labels": ["car"], "frame": 0, "size": [400, 280]}
    assert placed(page_of(tmp_path, row(images, truth))) == [(0.0, 0.0, 50.0, 50.0, False)]


def test_what_cannot_be_shown_is_said_on_the_page(tmp_path, images):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    html = page_of(
        tmp_path,
        row([{"image": str(broken)}, {"image": "/missing.png"}]),
        row([{"image": "https://example.org/a.png"}, {"image": None}], reward_model=None, sources=None),
    )
    for text in ("no image that Pillow knows", "/missing.png does not exist", "was not fetched", "is no image"):
        assert text in html
    assert "<img" not in html


def test_texts_of_the_data_never_become_markup(tmp_path, images):
    nasty = "<script>alert(1)</script><img src=x>"
    sources = [{**SOURCES[0], "name": nasty, "prompt": nasty}, SOURCES[1]]
    truth = {"boxes": [[0, 0, 9, 9]], "labels": ['"><script>'], "frame": 0, "size": [400, 280]}
    html = page_of(tmp_path, row(images, truth, sources, data_source=nasty, prompt=[{"role": nasty, "content": nasty}]))
    assert "<script" not in html and "src=x>" not in html.replace("&lt;img src=x&gt;", "")


def test_a_page_needs_no_network_and_no_other_file(tmp_path, images):
    html = page_of(tmp_path, row(images))
    assert set(re.findall(r'(?:src|href)="(\w+:)', html)) == {"data:"} and "url(" not in html
    assert "default-src 'none'" in html
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".html", ".tmp")] == ["rows.html"]


def test_rows_are_picked_from_every_part(tmp_path, images):
    files = []
    for n in range(3):
        files.append(str(tmp_path / f"{n}.parquet"))
        write_rows(files[-1], [row(images, extra_info=EXTRA | {"index": k, "sample_id": str(k)}) for k in range(10)])
    total, picked = pick_rows(files, 6)
    assert total == 30 and [(file, number) for file, number, _ in picked] == [
        (file, k) for file in files for k in (0, 5)
    ]
    assert len(pick_rows(files, 100)[1]) == 30


def test_files_without_rows_or_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column prompt or images, its columns are: question"):
        write_rows_page([str(tmp_path / "other.parquet")], tmp_path / "rows.html")
    pq.write_table(pa.Table.from_pylist([], schema=ARROW_SCHEMA), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no rows to show"):
        write_rows_page([str(tmp_path / "none.parquet")], tmp_path / "rows.html")


def test_the_command_prints_where_the_page_is(tmp_path, images):
    write_rows(tmp_path / "a.parquet", [row(images)])
    result = CliRunner().invoke(app, ["data", "show", str(tmp_path / "a.parquet"), "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/out/rows.html\n")
    result = CliRunner().invoke(app, ["data", "show", str(tmp_path / "a.parquet"), "--out", "/proc/nowhere"])
    assert result.exit_code == 2 and "--out /proc/nowhere cannot be made: No such file" in result.stderr


def test_thumbnails():
    small = picture(Image.new("RGB", (20, 10), (255, 0, 0)))
    assert small.url.startswith("data:image/png;base64,") and (small.width, small.height) == (20, 10)
    large = picture(Image.new("L", (4000, 1000)), side=400)
    assert large.url.startswith("data:image/jpeg;base64,") and (large.width, large.height) == (4000, 1000)
    with pytest.raises(SampleError, match="no image that Pillow knows"):
        picture(b"text")


def test_tables_set_numbers_to_the_right_and_escape():
    source = '{% import "macros.html" as m %}{{ m.table(["name", "score"], [["<b>", 0.5], ["b", 1]]) }}'
    html = environment().from_string(source).render()
    assert '<th class="number">score</th>' in html and '<td class="number">0.5</td>' in html and "&lt;b&gt;" in html


def test_a_template_with_an_unknown_name_fails_and_leaves_no_file(tmp_path):
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "a.html", "tokens.html", title="t")
    assert list(tmp_path.iterdir()) == []
    assert render("base.html", title="<t>").count("&lt;t&gt;") == 2
