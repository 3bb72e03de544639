"""Checkpoints: written whole, verified, named by a pointer written last; nothing is unpickled."""
