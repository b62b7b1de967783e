"""Model families: resizing, token counts and frames of boxes. Imports no torch, no transformers."""
