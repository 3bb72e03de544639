"""The command `neuclip`. Results go to stdout, everything else to stderr."""
