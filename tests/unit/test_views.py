"""Views of a row: which images, which text, which ground truth."""

import copy

import pytest

from verl_mars.views import Fused, Mono, Shuffled, Source, Subset, sources_of_row


def image(name):
    return {"type": "image", "image": f"/data/{name}.png"}


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture
def row():
    content = [image("rgb"), text(" and "), image("ir"), text("\nWhere is the person?")]
    return {
        "raw_prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
        "reward_model": {"style": "rule", "ground_truth": "fused truth"},
        "uid": "u1",
    }


def shown(row):
    return row["raw_prompt"][-1]["content"]


def test_fused_is_the_row(row):
    assert Fused().render(row) is row


def test_repeat_fills_every_placeholder_with_the_source(row):
    assert shown(Mono(Source("ir", (1,))).render(row)) == [
        *(image("ir"), text(" and "), image("ir")),
        text("\nWhere is the person?"),
    ]


def test_repeat_takes_the_images_of_a_source_in_turn(row):
    row["raw_prompt"][1]["content"].insert(0, image("rgb_left"))  # images: rgb_left, rgb, ir
    got = [part["image"] for part in shown(Mono(Source("rgb", (0, 1))).render(row)) if part["type"] == "image"]
    assert got == ["/data/rgb_left.png", "/data/rgb.png", "/data/rgb_left.png"]


def test_drop_leaves_other_placeholders_out(row):
    assert shown(Mono(Source("ir", (1,)), "drop").render(row)) == [
        *(text(" and "), image("ir")),
        text("\nWhere is the person?"),
    ]


@pytest.mark.parametrize("mono_prompt", ["repeat", "drop"])
def test_own_prompt_wins_and_keeps_the_system_message(row, mono_prompt):
    view = Mono(Source("ir", (1,), prompt="Infrared: <image> Where is the person?"), mono_prompt).render(row)
    assert view["raw_prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("Infrared: "), image("ir"), text(" Where is the person?")]},
    ]


def test_own_prompt_needs_a_placeholder_an_image(row):
    with pytest.raises(ValueError, match="source 'ir' has 2 <image>, but the source has 1 images"):
        Mono(Source("ir", (1,), prompt="<image><image>?")).render(row)


def test_own_ground_truth_replaces_the_fused_one(row):
    assert Mono(Source("ir", (1,), ground_truth="ir truth")).render(row)["reward_model"] == {
        "style": "rule",
        "ground_truth": "ir truth",
    }
    assert Mono(Source("ir", (1,))).render(row)["reward_model"]["ground_truth"] == "fused truth"


@pytest.mark.parametrize("source", [Source("ir", (1,), "<image>?", "t"), Source("rgb", (0,))])
@pytest.mark.parametrize("mono_prompt", ["repeat", "drop"])
def test_rendering_changes_nothing_in_place(row, source, mono_prompt):
    before = copy.deepcopy(row)
    Mono(source, mono_prompt).render(row)
    assert row == before


def test_an_image_that_is_not_there_is_named(row):
    with pytest.raises(ValueError, match="source 'depth' names image 2, but the prompt has images 0 to 1"):
        Mono(Source("depth", (2,))).render(row)


def test_sources_of_a_row():
    column = [
        {"name": "rgb", "images": [0], "prompt": None, "ground_truth": None},
        {"name": "depth", "images": [1, 2], "prompt": "<image><image>?", "ground_truth": "{}"},
    ]
    assert sources_of_row({"sources": column}) == (
        Source("rgb", (0,)),
        Source("depth", (1, 2), "<image><image>?", "{}"),
    )


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (None, "no `sources`"),
        ([], "no `sources`"),
        ([{"name": "rgb", "images": []}], "at least one image"),
        ([{"name": "", "images": [0]}], "needs a name"),
        ([{"name": "rgb", "images": [0]}, {"name": "rgb", "images": [1]}], "listed 2 times"),
    ],
)
def test_broken_sources_are_refused(column, words):
    with pytest.raises(ValueError, match=words):
        sources_of_row({"sources": column})


def test_subset_leaves_the_other_images_out(row):
    assert shown(
        Subset("without rgb", (Source("ir", (1,), prompt="<image> own", ground_truth="own"),)).render(row)
    ) == [
        *(text(" and "), image("ir")),
        text("\nWhere is the person?"),
    ]
    blind = Subset("blind", ()).render(row)
    assert shown(blind) == [text(" and "), text("\nWhere is the person?")]
    assert blind["reward_model"] == row["reward_model"]


def test_shuffled_shows_other_images_in_the_same_places(row):
    original = copy.deepcopy(row)
    assert shown(Shuffled((image("a"), image("b"))).render(row)) == [
        *(image("a"), text(" and "), image("b")),
        text("\nWhere is the person?"),
    ]
    assert row == original


def test_what_does_not_fit_is_refused(row):
    with pytest.raises(ValueError, match="has 2 images, got 1"):
        Shuffled((image("a"),)).render(row)
    with pytest.raises(ValueError, match="names image 5"):
        Subset("x", (Source("x", (5,)),)).render(row)


def with_tools(row):
    shown = {"zoom": {"create_kwargs": {"images": ["rgb", "ir"]}}}
    return dict(row, tools_kwargs=shown, extra_info={"index": 3, "tools_kwargs": shown})


def test_a_session_gives_tools_what_its_source_says(row):
    own = '{"zoom": {"create_kwargs": {"images": ["ir"]}}}'
    got = Mono(Source("ir", (1,), tools_kwargs=own)).render(with_tools(row))
    assert got["tools_kwargs"] == got["extra_info"]["tools_kwargs"] == {"zoom": {"create_kwargs": {"images": ["ir"]}}}
    assert got["extra_info"]["index"] == 3
    assert with_tools(row)["tools_kwargs"]["zoom"]["create_kwargs"]["images"] == ["rgb", "ir"], "nothing is changed"
    entry = {"name": "ir", "images": [1], "tools_kwargs": own, "interaction_kwargs": "{}"}
    assert sources_of_row({"sources": [entry]})[0].tools_kwargs == own


@pytest.mark.parametrize("view", [Mono(Source("ir", (1,))), Subset("without(ir)", (Source("rgb", (0,)),))])
def test_a_row_whose_tools_could_show_other_sources_is_refused(row, view):
    with pytest.raises(ValueError, match=r"tools_kwargs may show a tool more than .*sources\[\]\.tools_kwargs"):
        view.render(with_tools(row))
    with pytest.raises(ValueError, match="interaction_kwargs"):
        view.render(dict(row, extra_info={"interaction_kwargs": {"name": "tutor"}}))
    empty = dict(row, extra_info={"tools_kwargs": {"zoom": None}}, tools_kwargs={})  # as Parquet fills a struct
    assert view.render(empty)["tools_kwargs"] == {}


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_row_with_a_video_is_refused_unless_the_source_has_its_own_prompt(row, kind):
    row["raw_prompt"][-1]["content"].append({"type": kind, kind: "/data/film.mp4"})
    for view in (Mono(Source("ir", (1,))), Subset("without(ir)", (Source("rgb", (0,)),))):
        with pytest.raises(ValueError, match=rf"the prompt has {kind} beside images.*sources\[\]\.prompt"):
            view.render(row)
    assert shown(Mono(Source("ir", (1,), prompt="<image>?")).render(row)) == [image("ir"), text("?")]
