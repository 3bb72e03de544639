"""open_clip models, tokenizers and transforms, and the folder they are published as."""
