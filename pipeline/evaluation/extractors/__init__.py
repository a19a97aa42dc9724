"""Feature extractors: the networks whose features are compared in place of pixels.

Begin with `extractor.py`, which makes, trains, saves and loads one; `networks.py` holds the networks, `linear_head.py` the
linear classifier on given features. Which extractor a data set gets is decided in `pipeline/evaluation/choose_extractor.py`.
May import what evaluation may, but nothing else of it.
"""
