"""From any folder of images to params.yaml and data/raw: the work of `foundry adopt` and `foundry data add`.

Begin with `pipeline/commands/adopt.py`, which calls these modules in order: `intake` copies the images into the project,
`survey` measures what they are, `durations` estimates the time of each stage here, `plan` chooses params and says why,
`replacement` puts the images into data/raw, and `params_file` writes the params. `foundry data add`
(`pipeline/commands/data/add.py`) shares `intake`, unpacks archives (`unpacking`), and adds files to data/raw (`arrangement`,
`addition`). `change` lets one command at a time change data/raw, and settles what a killed one has left.

A new choice goes to `plan`, and what it is founded on to `survey`. The room imports `pipeline.ingestion`,
`pipeline.training`, `pipeline.evaluation` and what they import.
"""
