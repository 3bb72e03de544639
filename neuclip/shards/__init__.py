"""Deterministic training shards (WebDataset tars) and their member table.

Contract: shards come in parts, `<root>/shard/parts/<part key>/`, each the pairs that were written together, shuffled
among themselves. The stage's manifest lists its parts in order; sample ids run through them, so a part that is added
gets the next ids and changes nothing that is there. Which pairs form a part depends on what the root has packed before
(history.py); at a fresh root the outcome is a function of recipe and inputs alone.
"""
