"""Raw data sets and rows for the tests of verl_mars.data."""

from functools import partial
from pathlib import Path

import pytest
import raw_sets

from verl_mars.data.convert import convert
from verl_mars.data.settings import settings_from


@pytest.fixture
def raw(tmp_path):
    """A function that makes a raw data set: ``raw("llvip")`` returns its root."""
    return lambda name, **kwargs: raw_sets.make(name, tmp_path / f"raw-{name}", **kwargs)


@pytest.fixture
def run(tmp_path):
    """A function that converts: ``run("llvip", root, out, images="embed")`` returns the result."""
    from verl_mars.data_prep import find_converter

    def convert_set(name, root, out=None, advance=None, **values):
        converter = find_converter(name)
        values.setdefault("style", converter.default_style)
        out = tmp_path / "out" if out is None else Path(out)
        return convert(converter, settings_from({"root": root, "out": out, **values}), advance)

    return convert_set


@pytest.fixture
def images(tmp_path):
    """Two ordinary pictures of 64 x 48 pixels."""
    return [raw_sets.picture(tmp_path / f"ordinary-{k}.jpg", seed=k) for k in range(2)]


@pytest.fixture
def make_row(images):
    """A function that makes a right row; keyword arguments replace its columns, ``extra`` keys of extra_info."""
    return partial(raw_sets.row, images, (64, 48))


@pytest.fixture
def small(tmp_path):
    """Sixty samples, three of which miss an image."""
    (tmp_path / "raw").mkdir()
    return raw_sets.large_manifest(tmp_path / "raw", wrong=(7, 33, 59))
