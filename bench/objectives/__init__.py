"""Benchmarks of the objectives: what a step costs, how well normalizers are estimated, what training gains."""
