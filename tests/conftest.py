"""One thread for each process of the tests: two run side by side, and sums are taken in one order on any machine."""

import os

# Before anything imports torch. The overlay hardware=cpu gives its processes one thread for the same two reasons.
os.environ.setdefault("OMP_NUM_THREADS", "1")
