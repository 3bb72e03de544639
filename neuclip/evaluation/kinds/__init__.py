"""The kinds of evaluation sets, a file each; `dataset_type.txt` of a set names one."""
