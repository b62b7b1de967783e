"""The page of shaded tokens."""

import json

import numpy as np
import pytest
from PIL import Image

from verl_mars.reports.tokens import medians, read_responses, write_tokens_page

LINE = {
    "input": "where is the hot object?",
    "output": "top left",
    "score": 0.5,
    "tokens": ["top", " left", "<b>", "\n"],
    "sampled": [1, 1, 0, 1],
    "dependency": [0.0, 1.0, 7.0, 3.0],
    "weight": [0.5, 1.5, 0.0, 1.0],
    "token_values": {"dependency": "nats", "weight": "of the advantage"},
    "images": [None],
}


@pytest.fixture
def dump(tmp_path):
    def write(*lines):
        file = tmp_path / "1.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    return write


def test_a_response_is_read(dump):
    name, (response,) = read_responses(dump(LINE), 5)
    assert name == "dependency"
    assert response.values == (0.0, 1.0, None, 3.0)
    assert response.shades == pytest.approx([0.0, 0.5, 0.0, 1.0])  # log 1, log 2, not sampled, log 4


def test_another_value_can_be_shown(dump):
    name, (response,) = read_responses(dump(LINE), 5, "weight")
    assert name == "weight" and response.values == (0.5, 1.5, None, 1.0)


def test_as_many_as_are_asked_for(dump):
    assert len(read_responses(dump(*[LINE] * 5), 3)[1]) == 3


def test_one_response_of_each_prompt(dump):
    lines = [{**LINE, "uid": key} for key in ("a_0_0", "a_1_0", "b_0_0", "b_0_1", "c_2_0")]
    assert [response.line for response in read_responses(dump(*lines), 5)[1]] == [1, 3, 5]


def test_equal_values_have_no_shade(dump):
    _, (response,) = read_responses(dump({**LINE, "dependency": [0.0] * 4}), 1)
    assert response.shades == [0.0] * 4


def test_tags_are_told_from_words_whole_or_in_pieces(dump):
    tokens = ["<", "thi", "nk>", "a<b", " red", "</answer>", "<|im", "_end|>"]
    values = [0.0, 1.0, 2.0, 30.0, 40.0, 3.0, 4.0, 5.0]
    _, responses = read_responses(dump({**LINE, "tokens": tokens, "sampled": [1] * 8, "dependency": values}), 1)
    assert [text for text, tag in zip(tokens, responses[0].of_template, strict=True) if not tag] == ["a<b", " red"]
    assert medians(responses) == (35.0, 2.5)


def test_tokens_that_were_not_sampled_are_in_no_median(dump):
    words, template = medians(read_responses(dump(LINE), 1)[1])
    assert words == 1.0 and np.isnan(template)  # <b>, the only tag, is a tool's


def test_medians_are_over_all_prompts_and_shown(dump, tmp_path):
    lines = [{**LINE, "uid": f"{i}_0_0", "dependency": [float(i), 9.0 * i, 7.0, 3.0]} for i in range(4)]
    html = write_tokens_page(dump(*lines), tmp_path / "out" / "tokens.html", count=1)
    assert "median over a response of each of 4 prompts: 3 on words, nan on tags" in html.read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"input": "x"}, "line 1: no values for each token"),
        ({**LINE, "dependency": [1.0]}, "must be lists of one length"),
        ({**LINE, "dependency": [1.0, 2.0, "x", 3.0]}, "must be numbers"),
        ([1], "no dumped response"),
    ],
)
def test_what_is_no_dump_is_refused_by_line(dump, line, words):
    with pytest.raises(ValueError, match=words):
        read_responses(dump(line), 1)


def test_other_faults_are_named(dump, tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_responses(tmp_path / "none.jsonl", 1)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    with pytest.raises(ValueError, match="line 1: no JSON"):
        read_responses(broken, 1)
    broken.write_text("")
    with pytest.raises(ValueError, match="no response"):
        read_responses(broken, 1)
    with pytest.raises(ValueError, match="--value size: allowed are dependency, weight"):
        read_responses(dump(LINE), 1, "size")
    with pytest.raises(ValueError, match="--value uncertainty: allowed are dependency, weight"):
        read_responses(dump(LINE), 1, "uncertainty")


def test_a_models_text_never_becomes_markup(dump, tmp_path):
    nasty = {**LINE, "input": "<script>alert(1)</script>", "tokens": ["<img src=x onerror=alert(1)>", "a", "b", "c"]}
    html = write_tokens_page(dump(nasty), tmp_path / "t.html").read_text()
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html


def test_images_are_inside_the_page_and_missing_ones_are_said(dump, tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    text = tmp_path / "secret.txt"
    text.write_text("secret")
    images = [str(tmp_path / "a.png"), str(text), str(tmp_path / "none.png"), None]
    html = write_tokens_page(dump({**LINE, "images": images}), tmp_path / "t.html").read_text()
    assert html.count("data:image/png;base64,") == 1 and html.count("is not there") == 3


def test_tokens_keep_their_blanks_and_have_shade_and_number(dump, tmp_path):
    html = write_tokens_page(dump(LINE), tmp_path / "t.html").read_text()
    assert (
        '0.000)" title="0">top</span><span style="background: rgba(214, 69, 65, 0.500)" title="1"> left</span>' in html
    )
    assert 'title="not sampled">&lt;b&gt;</span>' in html


def test_long_responses_and_strange_characters_are_shown(dump, tmp_path):
    tokens = ["\u4f60", "", "\ufffd", "$x_1$", "\ud800", "a" * 300] * 400
    line = {**LINE, "tokens": tokens, "sampled": [1] * 2400, "dependency": [1.0] * 2400, "weight": [1.0] * 2400}
    file = write_tokens_page(dump(line), tmp_path / "out" / "t.html")
    assert file.read_text(encoding="utf-8").count("<span") == 2400
