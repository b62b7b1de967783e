"""Names of fields that sessions and trajectories carry, beside verl's own and those of anchors."""

VIEW_FIELD = "mars_view"
"""Marks a session of a view other than the fused one; such a session is scored and never stored."""

NOISY = "vogue_noisy"
"""Of VOGUE: whether the group is of the noisy branch."""

OTHER_VISUAL_INPUTS = "other_visual_inputs"
"""Of VOGUE: the visual inputs of the view that the trajectory is to be scored under; empty where there is none."""
