"""`foundry runs COMMAND`: one module per command, of the same name.

Begin with `list.py`, the shortest; `compare.py` writes a page, `restore.py` a git worktree.
"""
