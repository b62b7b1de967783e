import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from verl_mars.toy import prepare as module
from verl_mars.toy import warmstart, world
from verl_mars.toy.prepare import prepare
from verl_mars.toy.warmstart import Lesson, Recipe

pytestmark = pytest.mark.slow

TINY = Recipe(lessons=(Lesson(steps=1, misled=0.0, batch=4),), scenes=8, gate_scenes=4, vision_steps=1, vision_batch=4)
SPLITS = {"train": (4, world.TRAINING), "val": (3, world.UNIFORM), "heldout": (2, world.UNIFORM)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(warmstart, "TRACKS", {"default": TINY})
    monkeypatch.setattr(module, "SPLITS", SPLITS)
    yield


def _count_builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    built: list[Path] = []
    real = module._build

    def build(home: Path, *others: object) -> None:
        built.append(home)
        real(home, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_build", build)
    return built


def _pretend(home: Path, *_: object) -> None:
    home.mkdir()
    (home / "toy.json").write_text(json.dumps({"home": str(home)}))


def test_everything_is_there_and_the_second_call_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = _count_builds(monkeypatch)
    paths = prepare(root=tmp_path, progress=False)
    assert prepare(root=tmp_path, progress=False) == paths
    assert len(built) == 1
    assert capsys.readouterr().out.count(str(paths.root)) == 2
    for file, (count, _) in zip((paths.train_file, paths.val_file, paths.heldout_file), SPLITS.values(), strict=True):
        rows = pq.read_table(file).to_pylist()
        assert len(rows) == count
        assert all(Path(image["image"]).is_file() for row in rows for image in row["images"])
    assert (paths.model / "model.safetensors").is_file() and (paths.model / "generation_config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [paths.root.name]


def test_same_configuration_same_bytes(tmp_path: Path) -> None:
    one, two = (prepare(root=tmp_path / name, progress=False).root for name in ("one", "two"))
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    pictures = sorted(path.relative_to(one) for path in one.glob("images/*/*.png"))
    assert pictures and all((one / path).read_bytes() == (two / path).read_bytes() for path in pictures)


def test_track_seed_and_recipe_decide_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_build", _pretend)
    roots = [prepare(root=tmp_path, progress=False).root, prepare(seed=1, root=tmp_path, progress=False).root]
    for changed in (("VERSION", 99), ("THREADS", 7), ("SPLITS", SPLITS | {"val": (4, world.UNIFORM)})):
        with monkeypatch.context() as patch:
            patch.setattr(module, *changed)
            roots.append(prepare(root=tmp_path, progress=False).root)
    monkeypatch.setattr(warmstart, "TRACKS", {"default": Recipe(lessons=TINY.lessons, scenes=9)})
    roots.append(prepare(root=tmp_path, progress=False).root)
    assert len(set(roots)) == len(roots) == 6


def test_a_new_switch_leaves_what_was_built_before_there_was_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the runs of a study would no longer start where they started."""
    from dataclasses import asdict

    monkeypatch.setattr(module, "_build", _pretend)
    roots = [prepare(root=tmp_path, progress=False).root]
    for name, value in (("breaks_form", True), ("a_new_switch", False)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "asdict", lambda recipe, also=(name, value): {**asdict(recipe), **dict([also])})
            roots.append(prepare(root=tmp_path, progress=False).root)
    assert roots[0] != roots[1] and roots[0] == roots[2]


def test_a_folder_that_was_moved_is_refused(tmp_path: Path) -> None:
    home = prepare(root=tmp_path / "here", progress=False).root
    (tmp_path / "there").mkdir()
    home.rename(tmp_path / "there" / home.name)
    with pytest.raises(ValueError, match=f"was built in {home} and moved here"):
        prepare(root=tmp_path / "there", progress=False)


def test_the_cache_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_build", _pretend)
    monkeypatch.setenv("VERL_MARS_CACHE", str(tmp_path / "cache"))
    assert prepare(progress=False).root.parent == tmp_path / "cache" / "toy"
    monkeypatch.delenv("VERL_MARS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare(progress=False).root.parent == tmp_path / ".cache" / "verl_mars" / "toy"


def test_an_unknown_track_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown toy track 'hard'; allowed: \['default'\]"):
        prepare("hard", root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_mars.toy import rows

    with monkeypatch.context() as patch:
        patch.setattr(rows, "write_split", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space"):
            prepare(root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    assert prepare(root=tmp_path, progress=False).train_file.is_file()


def test_what_a_killed_build_left_is_not_taken_for_a_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill cannot clean up: the folder it leaves has another name than a finished one."""
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(root=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 1
    built = _count_builds(monkeypatch)
    assert prepare(root=tmp_path, progress=False).model.is_dir()
    assert len(built) == 1


def test_a_toy_finished_by_another_process_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process ends while this one still writes: its folder stays, ours is thrown away."""
    real = Path.rename
    theirs: list[bytes] = []

    def rename(self: Path, target: Path) -> Path:
        if not theirs:
            theirs.append(b"")
            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", real)
                theirs.append((prepare(root=tmp_path, progress=False).root / "toy.json").read_bytes())
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    paths = prepare(root=tmp_path, progress=False)
    assert (paths.root / "toy.json").read_bytes() == theirs[1]
    assert [path.name for path in tmp_path.iterdir()] == [paths.root.name]


def _prepare_in_child(root: str, results: multiprocessing.Queue) -> None:
    results.put(str(prepare(root=root, progress=False).root))


def test_two_processes_at_a_time_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_prepare_in_child, args=(str(tmp_path), results)) for _ in range(2)]
    for child in children:
        child.start()
    roots = {results.get(timeout=60) for _ in children}
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(roots) == 1 and [str(path) for path in tmp_path.iterdir()] == list(roots)
