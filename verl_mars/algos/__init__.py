"""The mathematics of the papers: tensors in, tensors out. Imports torch, nothing of verl, nothing of ours."""
