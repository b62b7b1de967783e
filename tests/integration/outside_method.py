"""A method as another package would bring it, and its installation: a folder on PYTHONPATH with an entry point."""

from pathlib import Path

DISTRIBUTION = "verl_mars_halved-0.1"
ENTRY_POINTS = "[verl_mars.methods]\nhalved = verl_mars_halved:Halved\n"

SOURCE = '''
"""Halves the weight of tokens that the policy finds likelier without the images."""

from pydantic import Field

from verl_mars.methods import Reshaping, ReshapingSettings, Result, TokenValues, mean_over
from verl_mars.methods.reshaping import blind_view


class HalvedSettings(ReshapingSettings):
    share: float = Field(default=0.5, ge=0, le=1)
    """What is left of a token's advantage."""


class Halved(Reshaping):
    name = "halved"
    Settings = HalvedSettings

    def faults(self, config):
        yield from super().faults(config)
        if config.data.train_batch_size > 1000:
            yield f"data.train_batch_size = {config.data.train_batch_size}: adv_estimator=halved takes 1000 at most"

    def views(self, rows, context):
        blind = blind_view(context.processor)
        return [blind if real else None for real in rows.real]

    def reshape(self, advantages, inputs):
        log_probs, view_log_probs = self.log_probs_of_both(inputs)
        blindly = view_log_probs > log_probs
        weight = blindly * self.settings.share + ~blindly * 1.0
        return Result(advantages * weight.to(advantages), {"weight": TokenValues(weight, "share left")}, blindly)

    def own_metrics(self, inputs, details):
        return mean_over("halved/share", details, inputs.inside)
'''


def install(folder: Path, source: str = SOURCE, entry_points: str = ENTRY_POINTS) -> Path:
    """Install the package into a folder that is to be on PYTHONPATH; returns it."""
    (folder / "verl_mars_halved.py").write_text(source)
    info = folder / f"{DISTRIBUTION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verl-mars-halved\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder
