"""What model families do to an image: resizes, token counts, frames of boxes, the layout of pixels.

Imports no torch, no transformers; `patches` alone has torch.
"""
