"""What the study compares, in the order of importance: what does not fit into the time is cut from the end."""

from dataclasses import asdict, dataclass, field

from verl_mars.fields import FieldDict, Fields


@dataclass(frozen=True)
class Arm:
    """One way to compute advantages.

    Attributes:
        estimator: ``grpo`` or ``mars``.
        settings: of ``algorithm.mars``.
        rollouts: fused rollouts of a prompt.
        shuffled: each prompt gets the anchors of another prompt of its batch: a control.
    """

    estimator: str
    settings: Fields = field(default_factory=dict)
    rollouts: int = 8
    shuffled: bool = False


ARMS: dict[str, Arm] = {
    "grpo": Arm("grpo"),
    "mars": Arm("mars"),
    "shuffled": Arm("mars", shuffled=True),
    "unsolved_or_mixed": Arm("mars", {"gain_gate": "unsolved_or_mixed"}),
    "grpo_n10": Arm("grpo", rollouts=10),
    "solved": Arm("mars", {"gain_gate": "solved"}),
    "acc": Arm("mars", {"anchor_key": "acc", "accuracy_weight": 0.9}),
    "sampled": Arm("mars", {"anchor_decoding": "sampled"}),
}
"""``shuffled``: does the prompt's own anchor matter. ``unsolved_or_mixed``: no push on groups that are all right.
``grpo_n10``: GRPO with as many generations as MARS, 8 fused and 2 anchors."""


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
