"""Take pairs down: erase their images and texts where that can be done, and say where else they went.

Contract: what is named is refused from the moment the record is written; nothing moves, so places of other samples
stay; a takedown that was ended before it was finished keeps acquire from running until it is.
"""
