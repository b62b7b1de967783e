"""Keys of rows, which rows count, and the fields of anchors."""

import json
import math

import pytest
import torch

from verl_mars.data.row_checks import RESERVED_COLUMNS
from verl_mars.rows import FIELDS, Anchor, AnchorRows, Anchors, Key, counted_rows, last_outputs


def test_a_key_has_three_parts():
    assert Key.parse("a_10_2") == Key("a", 10, 2)
    assert Key.parse("pad_ff_0_0") == Key("pad_ff", 0, 0)


@pytest.mark.parametrize("key", ["a", "a_1", "a_b_0", "a_0_-1", ""])
def test_another_form_is_refused(key):
    with pytest.raises(ValueError, match="does not have the form uid_session_output"):
        Key.parse(key)


def test_last_output_of_a_session_counts_and_padding_never():
    keys = ["a_0_0", "a_0_2", "a_0_1", "a_1_0", "padff_0_0"]
    tags = [{}, {}, {}, {"is_padding": False}, {"is_padding": True}]
    assert counted_rows(keys, tags).tolist() == [False, True, False, True, False]
    assert last_outputs(keys).tolist() == [1, 1, 1, 3, 4]


def test_outputs_are_ordered_as_numbers():
    assert last_outputs(["a_0_9", "a_0_10"]).tolist() == [1, 1]


def test_no_rows():
    assert counted_rows([], []).shape == (0,)


def test_anchors_of_prompts_with_different_sources_come_back():
    """Fields of two prompts' rows, as the store returns them."""
    two = Anchors((Anchor("rgb", 0.5, 3.0, 9), Anchor("ir", 1.0, 3.0, 8)), 0.2).fields()
    one = Anchors((Anchor("rgb", 0.25, 2.0, 4),), 0.1).fields()
    nested = ("anchor_scores", "anchor_versions")
    data = {name: torch.nested.as_nested_tensor([two[name], one[name]], layout=torch.jagged) for name in nested}
    data |= {name: [two[name], one[name]] for name in two if name not in nested}
    rows = AnchorRows.from_columns(data)
    assert rows.scores[0].tolist() == [0.5, 1.0]
    assert rows.scores[1, 0] == 0.25 and math.isnan(rows.scores[1, 1])
    assert rows.sources == [["rgb", "ir"], ["rgb"]]
    assert (rows.tokens.tolist(), rows.seconds.tolist()) == ([17.0, 4.0], [0.2, 0.1])


def test_an_anchor_carries_further_values_if_they_are_asked_for():
    anchors = Anchors((Anchor("rgb", 0.5, values={"acc": 1.0, "truncated": 0.0}), Anchor("ir")))
    assert "anchor_acc" not in anchors.fields()
    fields = anchors.fields(("acc",))
    assert fields["anchor_acc"][0] == 1.0 and math.isnan(fields["anchor_acc"][1]) and "anchor_truncated" not in fields


def test_known_anchors_with_and_without_further_values():
    text = json.dumps([["rgb", 0.5, 3.0], ["ir", 1.0, 2.0, {"acc": 1.0}]])
    assert Anchors.known(text).of_session == (Anchor("rgb", 0.5, 3.0), Anchor("ir", 1.0, 2.0, values={"acc": 1.0}))


def test_no_column_of_a_data_set_has_the_name_of_a_field():
    assert set(FIELDS) <= RESERVED_COLUMNS
