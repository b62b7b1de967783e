"""verl-mars: reinforcement learning on prompts with several visual sources, as a plugin of verl."""

__version__ = "0.1.0"
