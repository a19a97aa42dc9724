"""Images by the million: a set in shards, drawn by any number of processes into a folder or a bucket.

May import what evaluation may. Begin reading with sample_set.py.
"""
