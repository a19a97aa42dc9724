"""Tuning after training: the EMA length of the weights, guidance and sampling times, all chosen on training images.

Begin with `tune.py`, which makes the three choices in turn; `guidance.py` chooses scale and interval, and `apply.py` writes the
model with what was chosen, which is the one to be registered.
"""
