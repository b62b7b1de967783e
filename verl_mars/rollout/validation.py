"""Validation that rolls out each source alone too (``algorithm.probe.validate``), in a run of any method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from verl_mars.config import Settings
from verl_mars.methods.base import Session
from verl_mars.views import Mono, MonoPrompt, Row, sources_of_row

if TYPE_CHECKING:
    from omegaconf import DictConfig

SECTION = "probe"

MARK = "verl-mars see: "
"""Begins the text in which a run reports on its model's sight, as JSON."""


class ProbeSettings(Settings):
    """Settings under ``algorithm.probe``: what a run asks about its own sight. All off by default."""

    validate_sources: bool = Field(default=False, alias="validate")
    """Validation rolls out each source alone too, beside the fused rollouts and sampled like them, and reports
    ``val-mars/*``."""

    see: int = Field(default=0, ge=0, le=256)
    """Rows for which the run asks before its first step whether the images reach the log-probs of the rollout engine
    and of the trainer; it stops with the reason if they do not. 0: it does not ask."""

    see_only: bool = False
    """End the run with the answer to that question (``verl-mars doctor --see``)."""

    @classmethod
    def of(cls, algorithm: "DictConfig") -> "ProbeSettings":
        """The settings of a run.

        Args:
            algorithm: the section ``algorithm`` of a configuration.

        Raises:
            UserError: unknown keys and impossible values, one line each.
        """
        return cls.from_mapping(algorithm.get(SECTION, None), f"algorithm.{SECTION}")


def sessions_alone(prompt: Row, mono_prompt: MonoPrompt) -> Sequence[Session]:
    """One session of each source of a validation prompt; none is run where the prompt has one source.

    Raises:
        ValueError: the prompt has no sources that can be used.
    """
    sources = sources_of_row(prompt)
    if len(sources) == 1:
        return [Session(sources[0].name, None)]
    return [Session(source.name, Mono(source, mono_prompt)) for source in sources]
