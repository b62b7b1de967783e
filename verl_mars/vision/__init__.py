"""What model families do to an image: resizes, token counts, frames of boxes. Imports no torch, no transformers."""
