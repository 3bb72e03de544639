"""Thin Prefect tasks over neuclip's functions: retries and progress. Nothing is cached here."""
