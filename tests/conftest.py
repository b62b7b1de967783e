"""One thread for each process of the tests: two run side by side, and sums are taken in one order on any machine."""

import os

from hypothesis import settings

# Before anything imports torch. The overlay hardware=cpu gives its processes one thread for the same two reasons.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: a change is judged by what it changed, not by what was drawn.
# HYPOTHESIS_PROFILE=search draws new examples each time.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
