"""Tuning of a language model on captions, so that its features tell them apart, and the stage that does it."""
