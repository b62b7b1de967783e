"""verl's v1 trainer modes with anchors: checks before models load, then anchors in and metrics out."""
