"""Reports: self-contained HTML pages and plots about data, models and retrainings.

`pages.py` renders the templates, `charts.py` draws charts; every other module is one report or a part of one. The pages of the
stages `prepare` and `evaluate` and the plots of `schedule` are outputs of DVC: they depend on their input only.

May import: artefacts, diffusion, evaluation, inference, ingestion, provenance, registry and tracking.
Begin with `evaluation_report.py`, then `retraining.py`.
"""
