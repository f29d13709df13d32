"""Descriptions of VTA accelerators."""
