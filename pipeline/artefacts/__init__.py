"""Formats on disk, and nothing else: files and JSON, tensors, the data set, the schedule's table, the model folder, passports.

Imports only diffusion/ and the error classes; every other room and the service import from here. The formats are
specified in docs/contracts.md; model folders and passports of version 0.1 must stay readable.
Begin reading with model.py.
"""
