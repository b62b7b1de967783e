"""Everything that is checked before a model loads: configuration, checkpoint, training data, installation."""
