"""Training of the network: batches, the loop of steps, optimisers, several processes, checkpoints and previews.

May import artefacts/, diffusion/ and inference/, but not tracking/: the stages log, through `course.Log`. A change of
loop.py, initial_network.py or what they import starts a new folder of checkpoints, since it may change weights
(fingerprint.py).

Begin reading with loop.py (`Training.steps`), then batches.py (all random numbers), journal.py (how a killed training
resumes), ancestor.py (what a training may start from) and trajectories.py (the batches of a student).

| subject | modules |
|---|---|
| the training | loop, batches, micro_batches, muon, initial_network, ancestor |
| several processes | distributed |
| its course | course, journal, checkpoint, fingerprint, preview, overfitting |
| a student | trajectories, feature_error |
| its cost | cost, pace |
"""
