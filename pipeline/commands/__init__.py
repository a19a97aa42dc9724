"""Commands of `foundry` that are no stage of the pipeline; `pipeline/cli.py` declares them with their options.

Each module has the function that the command line calls and what only this command needs. A command imports rooms; no
room imports a command, and a command imports no other. Begin with `sample.py`, the shortest way from a model to images.
"""
