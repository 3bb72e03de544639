"""One process or many: who this process is, and how it talks to the others.

Contract: `World` says rank, size and device; every collective takes the world and is the identity
at size 1, so callers never ask whether they are distributed. Tensors that are gathered have the
same shape on every rank. This room is the only importer of torch.distributed.
"""
