"""The teacher contract and the code generated from it."""
