"""Training of the network: batches, the loop of steps, optimisers, several processes, checkpoints and previews.

May import artefacts/, diffusion/ and inference/; not tracking/: the stages log, through `course.Log`. Begin reading with loop.py
(`Training.steps`), then batches.py (all random numbers), journal.py (how a killed training resumes), ancestor.py (what a
training may begin with) and trajectories.py (the batches of a student). Changes of files that loop.py and initial_network.py
import change weights, and so the folder of checkpoints (fingerprint.py).
"""
