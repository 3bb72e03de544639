"""A frozen language model as the encoder of texts: its folder, its record, and the features that it makes."""
