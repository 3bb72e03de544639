"""The training step, loop, schedule and metrics, and the launch of the ranks."""
