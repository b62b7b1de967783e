"""``verl-mars show-rollouts``: groups of a dump, with and without what our trainer adds."""

import json

import pytest
from browser import CHROMIUM, open_page
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.errors import DataError
from verl_mars.reports.page import picture
from verl_mars.reports.rollouts import read_groups, write_rollouts_page


def dump(folder, lines):
    file = folder / "3.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def lines(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "rgb.png")
    anchors = [
        {"source": "rgb", "reward": 0.0, "response": "<script>alert(1)</script>"},
        {"source": "depth", "reward": 1.0, "response": "left"},
        {"source": "lost", "reward": float("nan"), "response": None},
    ]
    common = {
        "input": "where?",
        "gts": '{"answers": ["left"]}',
        "step": 3,
        "images": [str(tmp_path / "rgb.png"), str(tmp_path / "gone.png")],
        "image_sources": ["rgb", "depth"],
        "anchors": anchors,
    }
    scores = {"a_0_0": 0.0, "a_1_0": 0.5, "b_0_0": 1.0}
    return [
        {**common, "uid": uid, "output": f"answer {uid}", "score": score, "advantage": score - 0.25}
        for uid, score in scores.items()
    ]


def test_a_group_is_a_prompt_with_its_answers_and_anchors(tmp_path, lines):
    first, second = read_groups(dump(tmp_path, lines), 10)
    assert [answer["reward"] for answer in first["answers"]] == ["0.000", "0.500"]
    assert [answer["advantage"] for answer in first["answers"]] == ["\u22120.250", "+0.250"]
    assert [answer["sign"] for answer in first["answers"]] == ["down", "up"]
    assert first["gain"] == "\u22120.250" and first["sign"] == "down"  # 0.25 fused, 0.5 over the anchors that are there
    assert second["gain"] == "+0.500" and second["sign"] == "up"
    assert [anchor["reward"] for anchor in first["anchors"]] == ["0.000", "1.000", ""]
    assert [bool(image["picture"]) for image in first["images"]] == [True, False]
    assert len(read_groups(dump(tmp_path, lines), 1)) == 1


def test_the_page_escapes_what_models_write(tmp_path, lines):
    result = CliRunner().invoke(app, ["show-rollouts", str(dump(tmp_path, lines)), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "rollouts.html").read_text()
    assert "&lt;script&gt;alert(1)" in text and "<script" not in text
    assert "image 2 is not there" in text and "missing" in text and "data:image/png;base64" in text


HOSTILE = ("<script>document.title = 'owned'</script>", "</td></table><img src=x onerror=alert(1)>", "x" * 100_000)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page is not opened")
def test_a_browser_shows_hostile_answers_as_text(tmp_path, lines):
    for line, answer in zip(lines, HOSTILE, strict=True):
        line["output"] = line["anchors"][0]["response"] = answer
    page = write_rollouts_page(dump(tmp_path, lines), tmp_path / "rollouts.html")
    assert page.stat().st_size < 200_000
    opened = open_page(
        page,
        tmp_path / "browser",
        """
        tell(document.querySelectorAll("script").length);
        const shown = Array.from(document.images);
        tell(shown.length && shown.every(image => image.complete && image.naturalWidth > 0));
        tell(document.querySelectorAll("td.text")[0].textContent);
        """,
    )
    assert opened.console == ()
    assert opened.told.split("|") == ["1", "true", HOSTILE[0]]  # the script is the driving one


def test_a_data_url_is_a_picture(tmp_path, lines):
    for line in lines:
        line["images"] = [None, None]
    lines[1]["images"] = [picture(Image.new("RGB", (30, 20))).url, "data:image/png;base64,??"]
    first, _ = read_groups(dump(tmp_path, lines), 10)
    assert [bool(image["picture"]) for image in first["images"]] == [True, False]
    assert first["images"][0]["name"] == "rgb"


def test_a_dump_of_verl_alone_is_shown_too(tmp_path):
    (group,) = read_groups(dump(tmp_path, [{"input": "q", "output": "a", "gts": None, "score": 1.0, "step": 1}]), 5)
    assert group["images"] == [] == group["anchors"]
    assert group["gain"] == "" and group["answers"][0]["advantage"] == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no response in it"),
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: no dumped response"),
        ('{"input": 1}', "no key `output`"),
    ],
)
def test_other_files_are_refused(tmp_path, text, sentence):
    file = tmp_path / "x.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_groups(file, 3)
    with pytest.raises(DataError, match="cannot be read"):
        read_groups(tmp_path / "nowhere.jsonl", 3)
