"""Large matrices as products of small ones."""
