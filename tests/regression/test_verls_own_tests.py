"""verl's own tests have the same outcomes with the plugin loaded as without. They are fetched, never copied."""

from collections import Counter
from pathlib import Path

import pytest
import verl
from verls_own import SHIPPED, V1, outcomes, source_of

pytestmark = pytest.mark.regress

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source():
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    try:
        return source_of(verl.__version__, cache)
    except OSError as error:
        pytest.skip(str(error))


def both(source, tests, folder):
    with_plugin = outcomes(source, tests, "auto", folder / "with.xml")
    without = outcomes(source, tests, "none", folder / "without.xml")
    print(f"with the plugin: {Counter(with_plugin.values())}, without: {Counter(without.values())}")
    return with_plugin, without


def test_core_algorithms_advantages_metrics_and_protocol(source, tmp_path):
    tests = [test for test in SHIPPED if (source / test).exists()]
    with_plugin, without = both(source, [*tests, f"--ignore={V1}"], tmp_path)
    assert with_plugin == without
    assert Counter(without.values())["passed"] > 200
    assert [name for name, outcome in with_plugin.items() if outcome in ("failure", "error")] == []


def test_trainer_and_replay_buffer(source, tmp_path):
    if not (source / V1).is_dir():
        pytest.skip(
            f"verl's source distribution leaves out {V1}: VERL_SOURCE=<a checkout of verl's tag v{verl.__version__}>"
        )
    with_plugin, without = both(source, [V1], tmp_path)
    assert with_plugin == without
    assert Counter(without.values())["passed"] > 40
