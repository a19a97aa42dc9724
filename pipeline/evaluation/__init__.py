"""Quality of images and models: features, distances, copies, classes, a baseline, and tuning by them.

Begin with `evaluator.py`, which computes all figures of a set of images, and `metrics.py`, which holds the maths.
`figures.py` is the one table of figure names; a new figure goes there and into the evaluator. `extractors/` holds the
networks, `choose_extractor.py` chooses between them, and `all_images.py` holds the one that is the same for every data
set. `tuning/` chooses EMA length, guidance and sampling times after training; `verdict.py` puts the figures into words.
May import inference, artefacts, diffusion, params and device; nothing that makes weights may import this room.
"""
