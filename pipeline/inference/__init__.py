"""Uses of a trained model that both training and evaluation need: drawing images, grids, losses on held-out images.

May import artefacts/ and diffusion/. Begin reading with draw.py.
"""
