"""Triton kernels, one room an op. Nothing here is imported before a CUDA tensor asks for it."""
