"""What the study compares, in the order of importance: what does not fit into the time is cut from the end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from verl_mars.fields import FieldDict, Fields


@dataclass(frozen=True)
class Arm:
    """One way to compute advantages.

    Attributes:
        estimator: as in ``algorithm.adv_estimator``.
        settings: of ``algorithm.<estimator>``.
        rollouts: fused rollouts of a prompt.
        shuffled: a control: each prompt gets the anchors of another prompt of its batch, and each response its token
            weights in another order.
        top_p: of the fused rollouts; anchors are greedy.
        dapo: dynamic sampling, clip-higher and the penalty for length, as the recipe has them in verl.
        recipe: of a run of verl; empty: only the loop has the arm.
    """

    estimator: str
    settings: Fields = field(default_factory=dict)
    rollouts: int = 8
    shuffled: bool = False
    top_p: float = 1.0
    dapo: bool = False
    recipe: str = "toy_mars_grpo"


ARMS: dict[str, Arm] = {
    "grpo": Arm("grpo"),
    "mars": Arm("mars"),
    "shuffled": Arm("mars", shuffled=True, recipe=""),
    "unsolved_or_mixed": Arm("mars", {"gain_gate": "unsolved_or_mixed"}),
    "grpo_n10": Arm("grpo", rollouts=10),
    "solved": Arm("mars", {"gain_gate": "solved"}),
    "acc": Arm("mars", {"anchor_key": "acc", "accuracy_weight": 0.9}),
    "sampled": Arm("mars", {"anchor_decoding": "sampled"}),
    "pgpo": Arm("pgpo", recipe="toy_pgpo_grpo"),
    "pgpo_shuffled": Arm("pgpo", shuffled=True, recipe=""),
    "vogue": Arm("vogue", recipe="toy_vogue_grpo"),
    "vogue_no_noise": Arm("vogue", {"noise": {"sigma": 0.0, "brightness": 0.0, "contrast": 0.0}}, recipe=""),
    "papo": Arm("papo", recipe="toy_papo_grpo"),
    "mars_pgpo": Arm("pgpo", {"base": "mars"}, recipe=""),
    "grpo_top_p": Arm("grpo", top_p=0.9),
    "mars_top_p": Arm("mars", top_p=0.9),
    "dapo": Arm("grpo", dapo=True, recipe="toy_dapo"),
    "mars_dapo": Arm("mars", dapo=True, recipe="toy_mars_dapo"),
    "vppo": Arm("vppo", dapo=True, recipe="toy_vppo_dapo"),
    "mars_dapo_fused": Arm("mars", {"filter_on": "fused"}, dapo=True, recipe="toy_mars_dapo"),
}
"""``shuffled``: does the prompt's own anchor matter. ``unsolved_or_mixed``: no push on groups that are all right.
``grpo_n10``: GRPO with as many generations as MARS, 8 fused and 2 anchors. ``pgpo_shuffled``: is it the image that
tokens are weighed by. ``vogue_no_noise``: VOGUE without another view, with its bonus for entropy alone.
``mars_dapo_fused``: with DAPO's own filter, so that no group stays for its anchors alone."""


def arms_in_verl(names: Sequence[str]) -> list[Arm]:
    """The arms of these names.

    Raises:
        ValueError: some are the loop's alone.
    """
    if alone := [name for name in names if not ARMS[name].recipe]:
        known = ", ".join(name for name, arm in ARMS.items() if arm.recipe)
        raise ValueError(f"no arm {', '.join(alone)} with --in-verl; choose from {known}")
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


TRACKS: dict[str, Track] = {
    "interference": Track(80),
    "default": Track(100),
    "broken_form": Track(80),
    "entrenched": Track(160),
}
"""``interference``: conflicting scenes are answered wrong from both sources, right from one. ``broken_form``: so they
are, and depth alone is answered without ``<answer>``. ``entrenched``: wrong from both in nearly every sample too."""


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
