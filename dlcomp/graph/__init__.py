"""Rewrites of the Relax graph that keep the numbers, and its lowering to TensorIR."""
