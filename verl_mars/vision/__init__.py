"""Model families: resizing, token counts, frames of boxes and the layout of pixels.

Imports no torch, no transformers; `patches` alone has torch.
"""
