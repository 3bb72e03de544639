"""Models on evaluation sets in the wds_* layout: kinds of sets, scores with intervals, comparisons."""
