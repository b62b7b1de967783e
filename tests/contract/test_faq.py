"""Every text that docs/faq.md quotes is said by whom it names, in the versions that are installed."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "faq.md"
QUOTED = re.findall(r"^### `(.+)` \(([\w-]+)\)$", PAGE.read_text(), re.MULTILINE)
HERE = {
    "verl-mars": ["verl_mars"],
    "verl": ["verl.trainer.ppo", "verl.single_controller.ray", "verl.utils.dataset"],
    "transformers": ["transformers.models.qwen2_5_vl", "transformers.models.qwen3_vl"],
    "hydra": ["hydra._internal"],
    "omegaconf": ["omegaconf"],
    "ray": ["ray._private"],
}
"""Whose source is searched, and where. torch says its line in compiled code; vLLM is not installed here."""


@cache
def source(who):
    folders = [Path(find_spec(package).origin).parent for package in HERE[who]]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return "\n".join(file.read_text() for file in files)


def test_most_of_the_page_is_checked():
    assert len([who for _, who in QUOTED if who in HERE]) >= 12
    assert {who for _, who in QUOTED} <= HERE.keys() | {"torch", "vLLM"}


@pytest.mark.parametrize(("text", "who"), [(text, who) for text, who in QUOTED if who in HERE])
def test_the_text_is_said(text, who):
    """Up to names and numbers, which the source fills in."""
    pieces = [
        re.escape(piece)
        for piece in re.split(r"\.\.\.|'mars_sync'|'mars'|'dataset'|=mars|(?<=got no )anchors", text)
        if piece
    ]
    pattern = r".{0,80}?".join(pieces)
    assert re.search(pattern, source(who)), f"{who} does not say {text!r} any more; look for what it says now"
