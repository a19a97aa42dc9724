"""From any folder of images to params.yaml and data/raw: the work of `foundry adopt`.

Begin with `pipeline/commands/adopt.py`, which calls these modules in order: `intake` copies the images into the project,
`survey` measures what they are, `pace` measures what a training step costs here, `plan` chooses params and says why, and
`params_file` writes them.

A new choice goes to `plan`, and what it is founded on to `survey`. The room imports `pipeline.ingestion`,
`pipeline.training`, `pipeline.evaluation` and what they import.
"""
