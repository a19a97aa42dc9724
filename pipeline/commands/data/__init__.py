"""`foundry data COMMAND`: one module per command, of the same name.

Begin with `report.py`, the shortest. `fetch.py`, `add.py`, `link.py` and `exclude.py` change data/raw or
data/excluded.txt; the others report on the data.
"""
