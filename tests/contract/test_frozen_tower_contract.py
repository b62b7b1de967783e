"""``freeze_vision_tower``: verl's engine is exchanged where verl chooses it, and the tower has no gradients."""

import pytest
import torch
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine, FSDPEngineWithLMHead
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl_contract import expect

from verl_mars.trainer import frozen_tower
from verl_mars.trainer.divergence_worker import ViewDivergence
from verl_mars.trainer.frozen_tower import FrozenTowerEngine, FrozenTowerTrainingWorker, freeze_tower, workers


class Language(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        self.words = torch.nn.Linear(2, 5)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Language()


def test_the_tower_has_no_gradients_and_the_rest_has_its_own(monkeypatch):
    monkeypatch.setattr(FSDPEngine, "_build_fsdp_module", lambda self, module: ("sharded", module))
    model = Model()
    model.model.words.bias.requires_grad_(False)
    kind, built = FrozenTowerEngine.__new__(FrozenTowerEngine)._build_fsdp_module(model)
    assert kind == "sharded" and built is model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"model.words.weight"}


def test_the_number_of_frozen_parameters():
    assert freeze_tower(Model()) == 3 * 4 + 4 + 4 * 2 + 2


def test_a_model_without_a_tower_is_refused():
    with pytest.raises(ValueError, match="freeze_vision_tower=true: Linear has no vision tower"):
        freeze_tower(torch.nn.Linear(2, 2))


def test_the_toy_model_has_a_tower():
    from verl_mars.toy.model import build_model

    model = build_model(seed=0)
    assert freeze_tower(model) == sum(p.numel() for p in model.model.visual.parameters())
    assert all(p.requires_grad for p in model.model.language_model.parameters())


def test_verl_chooses_the_engine_by_vendor(monkeypatch):
    """In the actor's worker only: the reference model and everything after it get verl's own engine."""
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    chosen = []

    def note(self, config):
        chosen.append(EngineRegistry.get_engine_cls("language_model", "fsdp2"))

    monkeypatch.setattr(TrainingWorker, "__init__", note)
    FrozenTowerTrainingWorker(None)
    TrainingWorker(None)
    expect(
        chosen == [FrozenTowerEngine, FSDPEngineWithLMHead],
        "how the engine of a vendor is chosen",
        "verl_mars/trainer/frozen_tower.py",
    )


@pytest.mark.parametrize("exact", [False, True])
def test_every_actor_worker_of_verl_has_one_with_a_frozen_tower(exact):
    found = workers(exact)
    assert len(found) == 2
    for verls, ours in found.items():
        assert issubclass(ours, verls) and issubclass(ours, ViewDivergence) == exact
        assert ours.actor_worker_cls is FrozenTowerTrainingWorker
        expect(
            verls.actor_worker_cls is TrainingWorker is ActorRolloutRefWorker.ref_worker_cls,
            "from which class an actor worker builds its actor",
            "verl_mars/trainer/frozen_tower.py",
        )


def test_the_environment_is_as_before(monkeypatch):
    import os

    monkeypatch.delenv("VERL_ENGINE_VENDOR", raising=False)
    with frozen_tower._vendor("some"):
        assert os.environ["VERL_ENGINE_VENDOR"] == "some"
    assert "VERL_ENGINE_VENDOR" not in os.environ
