"""Paths, answers, VOC files, groups, prompts, lengths."""

import os

import pytest
import raw_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.data.answers import choice_truth, list_choices, split_aliases, split_choices
from verl_mars.data.disjoint_sets import SharedGroups
from verl_mars.data.paths import Root
from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.prompts import fused_prompt, mono_prompt
from verl_mars.data.sample import ImageRef, Sample, SourceSample
from verl_mars.data.voc import read_voc
from verl_mars.errors import DataError, SampleError, UsageError
from verl_mars.tasks.vqa import VqaTruth
from verl_mars.vision.resize import ImageLimits

# Paths


def test_files_under_the_root(tmp_path):
    root = Root(tmp_path / "sub" / "..")
    assert root.file("a/b.jpg") == str(tmp_path / "a" / "b.jpg")
    assert root.file(str(tmp_path / "a.jpg")) == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a/../../b", "", " ", "a\0b", ".."])
def test_paths_that_leave_the_root(tmp_path, name):
    with pytest.raises(SampleError) as caught:
        Root(tmp_path).file(name)
    assert caught.value.code == "outside_root"


def test_a_file_at_the_top_is_outside_wherever_one_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SampleError, match="is outside of --root"):
        Root(tmp_path).file("/a.jpg")


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data-secret").mkdir()
    with pytest.raises(SampleError):
        Root(tmp_path / "data").file("../data-secret/a.jpg")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_leave_the_root(tmp_path, what):
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (other / "a.jpg").write_bytes(b"x")
    if what == "file":
        (root / "a.jpg").symlink_to(other / "a.jpg")
        name = "a.jpg"
    else:
        (root / "linked").symlink_to(other)
        name = "linked/a.jpg"
    with pytest.raises(SampleError, match="leads to"):
        Root(root).file(name)
    assert Root(root, [other]).file(name) == str(root / name)
    (root / "inside.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(root / "inside.jpg")
    assert Root(root).file("link.jpg")


def test_a_root_behind_a_link_is_a_root(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert Root(tmp_path / "link").file("a.jpg") == str(tmp_path / "link" / "a.jpg")
    with pytest.raises(UsageError, match="no folder"):
        Root(tmp_path / "nowhere")


def test_images_of_a_folder_in_order(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.jpg"):
        (tmp_path / "x" / name).write_bytes(b"x")
    assert list(Root(tmp_path).images("x")) == [("a", "x/a.png"), ("b", "x/b.JPG")]
    (tmp_path / "x" / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="one name"):
        list(Root(tmp_path).images("x"))


# Answers


@pytest.mark.parametrize(
    ("answer", "aliases"),
    [
        ("three or 3", ["three", "3"]),
        ("blue or green or teal", ["blue", "green", "teal"]),
        ("uasc or (u a s c)", ["uasc", "u a s c"]),
        ("orange and white or white and orange", ["orange and white", "white and orange"]),
        ("yes", ["yes"]),
        ("yes or yes", ["yes"]),
        ("orange", ["orange"]),
        ("floor", ["floor"]),
    ],
)
def test_aliases(answer, aliases):
    assert split_aliases(answer).answers == aliases


def test_no_alias():
    with pytest.raises(SampleError):
        split_aliases("  or ")


CHOICES = ["not the same", "Crafts, Hobbies & Home", "Carol J. Buck MS  CPC  CCS-P", "C. Lonely [Planet], B. Books"]


def test_choices_keep_their_commas():
    question, choices = split_choices(
        "Question: same? Choice list : [A. not the same, B. Crafts, Hobbies & Home, C. x]."
    )
    assert question == "Question: same?" and choices == ["not the same", "Crafts, Hobbies & Home", "x"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(CHOICES[:3] + ["2016", "Children's Books"]), min_size=2, max_size=6))
def test_choices_come_back(choices):
    assert split_choices("Which? " + raw_sets.ocr_question(choices)) == (
        "Which? Are these two books in the same field?",
        choices,
    )


@pytest.mark.parametrize(
    "text", ["", "Which?", "Choice list : []", "Choice list : [A. one]", "Choice list : [B. a, C. b]"]
)
def test_no_choices(text):
    with pytest.raises(SampleError) as caught:
        split_choices(text)
    assert caught.value.code == "choices"


def test_a_long_text_takes_no_time():
    with pytest.raises(SampleError):
        split_choices("Choice list : [" + "A. " * 10_000)
    with pytest.raises(SampleError):
        split_choices("Choice list : [" + "A, " * 6_000 + "]")


def test_letters():
    assert choice_truth("b.", ["x", "y"]).text == "y"
    assert list_choices(["x", "y"]) == "A. x\nB. y"
    for letter in ("C", "", "AB", "1"):
        with pytest.raises(SampleError):
            choice_truth(letter, ["x", "y"])


# VOC


def test_voc_keeps_coordinates_and_sizes(tmp_path):
    raw_sets.voc(tmp_path / "a.xml", [(1, 1, 20, 30), (2, 3, 64, 48)], (64, 48))
    found = read_voc(tmp_path / "a.xml")
    assert found.boxes == ((1, 1, 20, 30), (2, 3, 64, 48))
    assert found.labels == ("person", "person") and found.size == (64, 48)
    raw_sets.voc(tmp_path / "b.xml", [], (0, 0))
    assert read_voc(tmp_path / "b.xml").size is None and read_voc(tmp_path / "b.xml").boxes == ()


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
OBJECT = "<annotation><object><name>a</name>{}</object></annotation>"
SIDES = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("<annotation>", "annotation", "broken XML"),
        ("", "annotation", "broken XML"),
        (BOMB, "annotation", "entity"),
        (OUTSIDE, "annotation", "entity"),
        (OBJECT.format(""), "annotation", "no <bndbox>"),
        (OBJECT.format(SIDES.format("")), "annotation", "no <xmin>"),
        (OBJECT.format(SIDES.format("left")), "annotation", "'left'"),
        (OBJECT.format(SIDES.format("9")), "zero_area", "no area"),
        (OBJECT.replace("<name>a</name>", "").format(SIDES.format("1")), "annotation", "no <name>"),
    ],
)
def test_voc_that_is_wrong(tmp_path, text, code, says):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(SampleError, match=says) as caught:
        read_voc(tmp_path / "a.xml")
    assert caught.value.code == code


def test_voc_that_is_missing_or_too_large(tmp_path):
    with pytest.raises(SampleError) as caught:
        read_voc(tmp_path / "no.xml")
    assert caught.value.code == "unpaired"
    (tmp_path / "a.xml").write_text("<annotation>" + " " * (5 * 2**20) + "</annotation>")
    with pytest.raises(SampleError, match="larger"):
        read_voc(tmp_path / "a.xml")


# Groups


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), max_size=12))
def test_groups_are_connected_components(edges):
    groups = SharedGroups()
    for edge in edges:
        groups.join(edge)
    nodes = {node for edge in edges for node in edge}
    reached = {node: {node} for node in nodes}
    for _ in nodes:
        for edge in edges:
            union = set().union(*(reached[node] for node in edge))
            for node in union:
                reached[node] = reached[node] | union
    for a in nodes:
        for b in nodes:
            assert (groups.find(a) == groups.find(b)) == (b in reached[a])


# Prompts


def sample(question="Is it safe?", **change):
    sources = (
        SourceSample("rgb", (ImageRef("a.jpg"),)),
        SourceSample(
            "infra_red", (ImageRef("b.jpg"), ImageRef("c.jpg")), question="Is it warm?", text="Published, alone."
        ),
    )
    values = {
        "sample_id": "1",
        "task": "vqa",
        "question": question,
        "truth": VqaTruth(answers=["yes"]),
        "sources": sources,
        "origin": "here",
    }
    return Sample(**(values | change))


def test_labelled_prompts_name_each_source():
    one = sample()
    fused = fused_prompt(one, "labelled")
    assert fused.startswith("RGB: <image>\nInfra red: <image><image>\nIs it safe?\n") and "<think>" in fused
    alone = mono_prompt(one, one.sources[1], "labelled", "own")
    assert alone.startswith("Infra red: <image><image>\nIs it warm?\n") and "safe" not in alone


def test_plain_and_official_prompts():
    one = sample(text="Published.")
    assert fused_prompt(one, "plain") == "<image><image><image>Is it safe?"
    assert fused_prompt(one, "official") == "<image><image><image>Published."
    assert mono_prompt(one, one.sources[0], "plain", "own") == "<image>Is it safe?"
    assert mono_prompt(one, one.sources[1], "official", "own") == "<image><image>Published, alone."
    assert mono_prompt(one, one.sources[1], "official", "repeat") is None


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<audio>"])
@pytest.mark.parametrize("style", ["labelled", "plain", "official"])
def test_a_placeholder_inside_a_question_is_refused(tag, style):
    with pytest.raises(SampleError) as caught:
        fused_prompt(sample(f"What does {tag} mean?"), style)
    assert caught.value.code == "media_tag"
    bad = SourceSample("rgb", (ImageRef("a.jpg"),), label=f"L {tag}", question=f"Q {tag}")
    with pytest.raises(SampleError):
        mono_prompt(sample(), bad, style, "own")


def test_an_empty_question_is_refused():
    with pytest.raises(SampleError):
        fused_prompt(sample("  "), "plain")


# Lengths: the contract tests hold them to the real processors


def test_text_without_a_tokenizer_is_bounded_by_its_bytes():
    length = PromptLength(ImageLimits())
    bare = length([{"role": "user", "content": "<image>"}], [(64, 48)])
    assert length([{"role": "user", "content": "<image>äöü"}], [(64, 48)]) == bare + 6
    assert not length.exact
