"""Lossless coding of weights of few different values: what an artifact may hold in place of plain arrays.

An array is a palette of its different values and a stream of their numbers. Where most elements are zero only
the others are in the stream, with their places beside them (Han et al., "Deep Compression", ICLR 2016,
sections 3 and 4). The streams are written by canonical Huffman codes or by asymmetric numeral systems.
"""

from __future__ import annotations

from dlcomp.runtime.coding.tensor import Coded, decode, encode

__all__ = ["Coded", "decode", "encode"]
