"""The demo: example recipes, and what they run on: pictures of scenes drawn from a seed, served on loopback.

No other room but the command line knows of it: to the journey a recipe of the demo is a recipe like any other.
"""
