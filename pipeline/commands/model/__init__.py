"""`foundry model COMMAND`: one module per command, of the same name, but `register`, which is `pipeline/register.py`.

Begin with `champion.py`, which holds `promote`, `rollback` and `history`.
"""
