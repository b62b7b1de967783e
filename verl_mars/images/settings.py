"""Settings under ``data.images_once``."""

from typing import TYPE_CHECKING

from pydantic import Field

from verl_mars.config import Settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SECTION = "data.images_once"


class ImagesOnce(Settings):
    """Whether and within which memory images are handled once a prompt, in the ``mars_*`` trainer modes."""

    enable: bool = True
    """False: verl's own way; each session loads and processes its images, and each row holds a copy of the patches."""

    max_gib: float = Field(default=16.0, gt=0, allow_inf_nan=False, strict=False)
    """Host memory for patches, in GiB, of one agent-loop worker and of one training process. Beyond it the sessions of
    further prompts wait for those of others to end, and a training process fetches a batch in several requests."""

    @property
    def max_bytes(self) -> int:
        """:attr:`max_gib` in bytes."""
        return int(self.max_gib * 2**30)

    @classmethod
    def of(cls, config: "DictConfig") -> "ImagesOnce":
        """The settings of a run's whole configuration.

        Raises:
            UserError: unknown keys and impossible values, one line each.
        """
        return cls.from_mapping(config.data.get("images_once"), SECTION)
