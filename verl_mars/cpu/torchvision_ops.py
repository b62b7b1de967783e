"""Lets ``import torchvision`` succeed beside a CPU build of torch. Needs neither verl nor torchvision."""

from verl_mars._compat import define_missing_torchvision_ops as define_missing_ops

__all__ = ["define_missing_ops"]
