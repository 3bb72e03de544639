"""From features of a batch to a loss, and to each anchor's log-normalizer.

Contract: an `Objective` takes unit-norm image and text features and sample ids of the local batch
and returns a scalar whose gradient, averaged over ranks, is that of the objective on the global
batch, whatever the split. It owns all of its state (temperature, normalizer network and that
network's optimiser, recent features), which travels in its `state_dict`. `family.build` makes one
from its recipe section; a new objective is one file, one section in `config` and one line there.
"""
