"""neuclip: from a list of image URLs with captions to an evaluated, published CLIP model.

The rooms follow the way of a sample: acquire, curate, captions, shards, index, loading, towers,
objectives, checkpoint, training, selection, evaluation, publishing. `journey` chains them.
"""
