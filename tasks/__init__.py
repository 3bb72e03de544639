"""Prefect tasks."""
