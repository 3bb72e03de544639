"""What every room stands on: errors, configuration sections, ids, keyed random numbers, children.

Contract: imports nothing of neuclip, no torch, no fsspec.
"""
