"""What both training and evaluation do with a model: draw images, arrange grids, measure losses on held-out images.

May import artefacts/ and diffusion/. Begin reading with draw.py.
"""
