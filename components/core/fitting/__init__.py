"""Rows at the thaw line, and the loop and the solver that fit on them."""
