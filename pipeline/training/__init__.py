"""Training of the network: batches, the loop of steps, optimisers, several processes, checkpoints and previews.

May import artefacts/, diffusion/ and inference/; not tracking/: the stage `pipeline.train` logs. Begin reading with loop.py
(`Training.steps`), then batches.py (all random numbers) and journal.py (how a killed training resumes). Changes of files
that loop.py imports change weights, and so the folder of checkpoints (fingerprint.py).
"""
