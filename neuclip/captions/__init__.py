"""The captions of every kept pair by source."""
