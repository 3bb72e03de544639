"""Score columns of acquired pairs, computed once for each pair and scorer: hashes, languages, CLIP scores, features."""
