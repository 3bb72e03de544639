"""Which tokens the towers read in training: patches of an image, tokens of a text (CLIPA, arXiv 2305.07017).

A policy is a section in `config` and a module of its name in `images` or `texts`. What it draws is keyed by
(seed, epoch, sample, view) and drawn where the batch is made: the same visit has the same tokens in any batch, at any
number of ranks and loading processes. Evaluation uses none: it sees all patches, and the first tokens of a text.
"""
