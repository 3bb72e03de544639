"""Prefect flows: one for each stage, and the pipeline. They validate, call tasks and make artifacts."""
