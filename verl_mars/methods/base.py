"""The interface of a method: everything that one paper adds to a run, in one class.

A run of a ``mars_*`` trainer mode has one :class:`Method`, named by ``algorithm.adv_estimator``. The agent-loop worker
asks it which further sessions a prompt needs and how its sessions are shown their images; the trainer asks it under
which view each response is rescored, and for advantages, metrics and values for the dumps. With an estimator of verl's
own the method is :class:`Method` itself, which asks for nothing.

Shapes: B rows (outputs of fused sessions), T response tokens, K anchors of a prompt.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from verl_mars.config import Settings
from verl_mars.fields import Columns, Fields
from verl_mars.rows import AnchorRows, Tags
from verl_mars.views import Message, MonoPrompt, RescoreView, RolloutView, Row, Trajectory

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from PIL.Image import Image
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Session:
    """A further session of a training prompt, beside its fused ones. Its reward is an anchor."""

    source: str
    """The source that the anchor belongs to."""
    view: RolloutView | None
    """How the prompt is shown; None: there is nothing to roll out, and the anchor is missing."""
    number: int = 0
    """Tells sessions of one view apart."""
    greedy: bool = False
    """Sample greedily; otherwise like the fused sessions."""
    sampling: Fields = field(default_factory=dict)
    """Changes to the sampling parameters of the fused sessions, as ``{"max_tokens": 64}``."""
    timeout_seconds: float = 600.0
    """A session that takes longer has failed: its anchor is missing."""


@dataclass(frozen=True)
class PromptContext:
    """Context of a prompt that is being rolled out."""

    step: int
    total_steps: int
    seed: Callable[[str], int]
    """A number below 2**31 for a purpose named by a text; it depends on the run's seed, the step and the prompt."""
    load_images: Callable[[Sequence[Fields]], Awaitable[list["Image"]]]
    """The images of a conversation as the agent loop loads them: decoded, at the size that the model sees."""


@dataclass(frozen=True)
class Presentation:
    """The prompt and images that the sessions of one prompt get."""

    prompt: Row
    """The prompt to roll out. Each of its entries becomes a field of the prompt's rows."""
    stored_messages: Sequence[Message] | None = None
    """``raw_prompt`` of the rows, if it should not be that of ``prompt``, as for images that exist in memory only."""
    other_images: Sequence["Image"] | None = None
    """Images of the view that the rows are rescored under; their visual inputs become the field
    ``other_visual_inputs``. Empty: this prompt has none. None: the method has no use for that field."""


@dataclass(frozen=True)
class ViewContext:
    """Context for making the views that rows are rescored under."""

    config: "DictConfig"
    """The run's configuration."""
    processor: "ProcessorMixin"
    step: int
    seed: int
    """Of the run; a view that draws random numbers derives them from it, the step and the row's key."""


@dataclass(frozen=True)
class RowsToView:
    """The rows of a batch before they are rescored."""

    keys: Sequence[str]
    real: torch.Tensor  # (B,) bool: not padding
    trajectories: Sequence[Trajectory]
    """Without visual inputs; a method that needs them lists ``multi_modal_inputs`` in ``view_fields``."""
    fields: Columns
    """The fields in ``Method.view_fields``, one value a row."""


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """The trainer's values of a batch that verl does not pass to estimators.

    Token values are float64 and 0 beyond a response.
    """

    real: torch.Tensor  # (B,) bool: not padding
    last_output: torch.Tensor  # (B,) long: the row with the last output of each row's session
    tags: Tags = ()
    anchors: AnchorRows | None = None
    log_probs: torch.Tensor | None = None  # (B, T) of the policy before the update, under the row's own view
    view_log_probs: torch.Tensor | None = None  # (B, T) under the other view; log_probs where a row has none
    divergence: torch.Tensor | None = None  # (B, T) KL(own view || other view) over the vocabulary
    reverse_divergence: torch.Tensor | None = None  # (B, T) KL(other view || own view)
    entropy: torch.Tensor | None = None  # (B, T) of the policy under the row's own view
    forward_type: torch.dtype = torch.float32  # of the forward passes that made the log-probs
    fields: Columns = field(default_factory=dict)  # Method.fields, one value a row
    reward_details: Mapping[str, torch.Tensor] = field(default_factory=dict)  # (B,) Method.reward_details, NaN = none

    @property
    def counted(self) -> torch.Tensor:
        """(B,) bool: rows that enter group statistics: the last output of each session, and no padding."""
        return self.real & (self.last_output == torch.arange(len(self.last_output), device=self.last_output.device))


@dataclass(frozen=True, kw_only=True)
class Inputs(RowValues):
    """Everything that advantages are computed from."""

    rewards: torch.Tensor  # (B, T); a row's reward is the sum over its tokens
    response_mask: torch.Tensor  # (B, T) 1 on tokens that the policy sampled
    index: Any  # (B,) uid of each row's prompt; rows in any order
    config: "DictConfig | None"  # the section `algorithm`; None outside a run

    @property
    def inside(self) -> torch.Tensor:
        """(B, T) bool: response tokens of real rows."""
        return self.response_mask.bool() & self.real[:, None]


@dataclass(frozen=True)
class TokenValues:
    """A value of each response token, for verl's dump of training responses and ``verl-mars show-tokens``."""

    values: torch.Tensor  # (B, T)
    label: str
    """The quantity and its unit, for readers."""


@dataclass(frozen=True)
class Result:
    """Advantages and what they were made from."""

    advantages: torch.Tensor  # (B, T), 0 outside the responses
    tokens: Mapping[str, TokenValues] = field(default_factory=dict)
    """By the name of the dump's column."""
    details: Any = None
    """Whatever ``Method.metrics`` needs."""


@dataclass(frozen=True)
class FinishedGroups:
    """Groups whose fused rewards are all equal, seen by dynamic sampling. R rows."""

    uids: Sequence[str]  # (R,)
    rewards: torch.Tensor  # (R,)
    fields: Fields
    """The columns in ``Method.group_fields``."""


class NoSettings(Settings):
    """For a method that has nothing to set."""


class Method:
    """A run without a method of ours, and the base class of all methods.

    To add one: subclass, set ``name`` and ``Settings``, override what differs, and name the class in an entry point of
    the group ``verl_mars.methods``. The name is then an ``algorithm.adv_estimator`` and its settings stand under
    ``algorithm.<name>``.
    """

    name: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]] = NoSettings
    lacks: ClassVar[str] = "does not know its sessions and views"
    """Why the method cannot run in a trainer mode of verl's own, as a predicate of the mode."""
    one_value: ClassVar[bool] = True
    """Whether a response has one advantage, so that a reshaping method can spread it over the tokens."""

    base_name: str = ""
    """The estimator below a method that reshapes advantages; empty for others."""

    rescores: bool = False
    """Whether responses are rescored under another view."""
    exact: bool = False
    """Whether the policies of both views are compared over the whole vocabulary, by one more forward pass."""
    view_fields: tuple[str, ...] = ()
    """Fields of the rows that :meth:`views` reads."""
    view_pixels: str = ""
    """The field that holds the visual inputs of its views already; empty: there is none."""
    fields: tuple[str, ...] = ()
    """Fields of the rows that :meth:`advantages` reads."""
    reward_details: tuple[str, ...] = ()
    """Values beside the reward, as ``acc``, that :meth:`advantages` reads."""
    needs_entropy: bool = False
    anchor_values: tuple[str, ...] = ()
    """Values of an anchor beside its reward: numeric keys of the reward manager, or ``truncated``."""
    anchor_epochs: int = 1
    """Epochs that an anchor serves before its session is run again."""
    mono_prompt: MonoPrompt = "repeat"
    """How the fused text is shown with one source; the check of prompt lengths counts these prompts too."""
    joins_sources: bool = False
    """Whether further sessions of rows with three or more sources show several of them."""
    check_data: bool = True
    """Whether the training data are checked before models load, if the method has further sessions."""
    group_fields: tuple[str, ...] = ()
    """Fields of the rows that :meth:`verdicts` reads."""
    counts: frozenset[str] = frozenset()
    """Metrics that are added up over the local updates of a step; all others are averaged."""

    def __init__(self, algorithm: "DictConfig | None" = None) -> None:
        """
        Args:
            algorithm: the section ``algorithm`` of a configuration; None: defaults.

        Raises:
            UserError: unknown keys and impossible values, one line each.
        """
        section = algorithm.get(self.name, None) if algorithm is not None and self.name else None
        self.settings: Any = self.Settings.from_mapping(section, f"algorithm.{self.name}")

    # ------------------------------------------------------------ before a run

    def faults(self, config: "DictConfig") -> Iterator[str]:
        """A sentence for each setting of a run that the method cannot work with: key, value and cure."""
        return iter(())

    def cautions(self, config: "DictConfig") -> Iterator[str]:
        """A sentence for each setting that the method works with, but not as a user may expect. They are logged."""
        return iter(())

    # ------------------------------------------------------------ rollout

    @property
    def anchoring(self) -> "Method | None":
        """The method that rolls out further sessions: this one, its base, or none."""
        return None

    def sessions(self, prompt: Row) -> Sequence[Session]:
        """Further sessions of a training prompt, asked of :attr:`anchoring` only.

        Raises:
            ValueError: the prompt's sources cannot be used; it is trained without anchors.
        """
        return ()

    async def present(self, prompt: Row, context: PromptContext) -> Presentation:
        """How all sessions of a training prompt are shown it; it must not be changed in place."""
        return Presentation(prompt)

    @property
    def group_filter(self) -> "Method | None":
        """The method whose :meth:`verdicts` dynamic sampling follows; None: verl drops equal fused rewards."""
        return None

    def verdicts(self, groups: FinishedGroups) -> Mapping[str, float | None]:
        """By uid: the reward at which nothing is left to learn from the group, or None if it still teaches."""
        raise NotImplementedError

    # ------------------------------------------------------------ training

    def views(self, rows: RowsToView, context: ViewContext) -> Sequence[RescoreView | None]:
        """(B) the view that each row is rescored under; None: not at all. Padding needs none."""
        return [None] * len(rows.keys)

    def advantages(self, inputs: Inputs) -> Result:
        """Advantages of the rows. Outside a trainer, values that it would have handed over are None."""
        raise NotImplementedError(f"the method {self.name!r} has no advantages")

    def metrics(self, inputs: Inputs, result: Result) -> dict[str, float]:
        """Metrics of a step. A mean over nothing is left out."""
        return {}

    def missing(self, what: str) -> ValueError:
        """The error for values that a trainer mode of verl's own did not hand over."""
        return ValueError(
            f"algorithm.adv_estimator={self.name} got no {what}: the trainer mode {self.lacks}. "
            "Set trainer.v1.trainer_mode=mars_sync (and leave trainer.use_v1=true)"
        )


def mean_over(name: str, values: torch.Tensor, where: torch.Tensor) -> dict[str, float]:
    """The mean over the chosen tokens as a metric; nothing if there are none."""
    return {name: values[where].double().mean().item()} if where.any() else {}
