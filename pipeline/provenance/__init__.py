"""Where results come from: the commit and its uncommitted changes, DVC's lock and cache, the process, the machine.

Imports only `artefacts` and below; knows git and DVC, but no tracking store: `tracking` writes these facts into runs.
Begin with `lineage`, the facts that every run gets; `git` and `dvc` run the two programs, `revisions` lists the states
of the project that DVC can restore, and `stage_key` identifies the result of a stage as DVC does.
"""
