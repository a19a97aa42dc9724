"""Formats on disk, and nothing else: files and JSON, tensors, the data set, the schedule's table, the model folder, passports.

Imports diffusion/ and the error class; every other room and the service import from here. The formats are specified in
docs/contracts.md; model folders and passports of version 0.1 must load for ever. Begin reading with model.py.
"""
