"""Quantized networks for VTA: what runs on the accelerator, in instructions, and what stays on the host."""
