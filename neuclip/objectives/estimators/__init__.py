"""What predicts an anchor's log-normalizer inside NeuCLIP.

Contract: an `Estimator` sees every global batch of training (`prepare` before its prediction is
used, `update` after) and predicts log(eps + g) of any anchors from its state alone.
"""
