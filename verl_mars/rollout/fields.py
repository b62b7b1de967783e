"""Names of the fields that VOGUE's trajectories carry in TransferQueue, beside verl's own."""

NOISY = "vogue_noisy"
"""Whether the group is of the noisy branch."""

OTHER_VISUAL_INPUTS = "other_visual_inputs"
"""The visual inputs of the view that the trajectory is to be scored under; empty where there is none."""
