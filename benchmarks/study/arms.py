"""What the study compares, in the order of importance: what does not fit into the time is cut from the end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from verl_mars.fields import FieldDict, Fields


@dataclass(frozen=True)
class Arm:
    """One way to compute advantages.

    Attributes:
        estimator: as in ``algorithm.adv_estimator``; the loop has ``grpo`` and ``mars``.
        settings: of ``algorithm.<estimator>``.
        rollouts: fused rollouts of a prompt.
        shuffled: each prompt gets the anchors of another prompt of its batch: a control.
        recipe: of a run of verl.
        places: where it can run: in the loop, in verl.
    """

    estimator: str
    settings: Fields = field(default_factory=dict)
    rollouts: int = 8
    shuffled: bool = False
    recipe: str = "toy_mars_grpo"
    places: tuple[str, ...] = ("loop", "verl")


ARMS: dict[str, Arm] = {
    "grpo": Arm("grpo"),
    "mars": Arm("mars"),
    "shuffled": Arm("mars", shuffled=True, places=("loop",)),
    "unsolved_or_mixed": Arm("mars", {"gain_gate": "unsolved_or_mixed"}),
    "grpo_n10": Arm("grpo", rollouts=10),
    "solved": Arm("mars", {"gain_gate": "solved"}),
    "acc": Arm("mars", {"anchor_key": "acc", "accuracy_weight": 0.9}),
    "sampled": Arm("mars", {"anchor_decoding": "sampled"}),
    "pgpo": Arm("pgpo", recipe="toy_pgpo_grpo", places=("verl",)),
    "vogue": Arm("vogue", recipe="toy_vogue_grpo", places=("verl",)),
    "papo": Arm("papo", recipe="toy_papo_grpo", places=("verl",)),
    "dapo": Arm("grpo", recipe="toy_dapo", places=("verl",)),
    "mars_dapo": Arm("mars", recipe="toy_mars_dapo", places=("verl",)),
    "vppo": Arm("vppo", recipe="toy_vppo_dapo", places=("verl",)),
}
"""``shuffled``: does the prompt's own anchor matter. ``unsolved_or_mixed``: no push on groups that are all right.
``grpo_n10``: GRPO with as many generations as MARS, 8 fused and 2 anchors."""


def names_in(place: str) -> list[str]:
    """The arms that can run in the ``loop`` or in ``verl``."""
    return [name for name, arm in ARMS.items() if place in arm.places]


def arms_in(place: str, names: Sequence[str]) -> list[Arm]:
    """The arms of these names.

    Raises:
        ValueError: some cannot run in this place.
    """
    if elsewhere := [name for name in names if place not in ARMS[name].places]:
        mode = "with" if place == "verl" else "without"
        raise ValueError(f"no arm {', '.join(elsewhere)} {mode} --in-verl; choose from {', '.join(names_in(place))}")
    return [ARMS[name] for name in names]


@dataclass(frozen=True)
class Track:
    """A warm start and a length of training.

    Attributes:
        steps: of training.
        every: steps between evaluations.
    """

    steps: int
    every: int = 20


TRACKS: dict[str, Track] = {"interference": Track(80), "default": Track(100)}
"""``interference``: conflicting scenes are answered wrong from both sources, right from one."""


@dataclass(frozen=True)
class Key:
    """Names a run."""

    track: str
    warm_start: int
    arm: str
    seed: int

    def describe(self) -> FieldDict:
        """The run's whole configuration."""
        return {**asdict(self), "track_settings": asdict(TRACKS[self.track]), "arm_settings": asdict(ARMS[self.arm])}
