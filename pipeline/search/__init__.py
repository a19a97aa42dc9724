"""Search for better params: which values to try, what has been tried, and one DVC experiment for each trial.

Begin with `pipeline/commands/search.py`, which calls these modules in a loop: `space` reads which params may have which
values, `study` asks optuna for the next point of it and keeps the results on disk, `experiment` runs the pipeline with it,
and `plots` draws the study. The room imports `pipeline.provenance`, `pipeline.params` and below.
"""
