"""A made web: scenes drawn from a seed, a URL table with broken links, evaluation sets, a loopback server."""
