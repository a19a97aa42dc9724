"""Commands of `foundry` that are no stage of the pipeline; `pipeline/cli.py` declares them with their options.

`foundry data add` is `data/add.py`, `foundry runs compare` is `runs/compare.py`, `foundry model export` is
`model/export.py`, and `foundry sample` is `sample.py`. Each module has the function that the command line calls and
what only this command needs. A command imports rooms, and another command where it does that one's work too; no room
imports a command. Begin with `sample.py`, the shortest way from a model to images.
"""
