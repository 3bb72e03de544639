"""`neuclip normalizers`: estimators of log-normalizers held against exact ones, at the weights of a checkpoint."""
