"""The engine: one thread that draws the images of all open requests together.

Start with `request.py` (what a client asked for, one job per image) and `engine.py` (the loop: choose, run, hand out);
then `scheduler.py` (which jobs get a step) and `stepper.py` (tensors: one model call, one solver step).

It may import `pipeline.artefacts`, `pipeline.diffusion` and `service.errors`, and nothing of HTTP or BentoML.
`scheduler.py` and `request.py` are plain Python without torch.
"""
