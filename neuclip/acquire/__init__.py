"""Planned rows in; images and one outcome row for each out, by fetching. Contract: no row is lost without a reason.

What `neuclip repair` and a takedown change in committed stages is changed here too (repair.py, erase.py, retries.py).
"""
