"""Questions about a recipe's pairs: SQL over what its stages committed, and the story of one pair.

Contract: only reads. Statements see the views of views.py and nothing else of this machine.
"""
