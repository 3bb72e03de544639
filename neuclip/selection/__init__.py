"""Which checkpoint: every kept one scored on the held-out selection split."""
