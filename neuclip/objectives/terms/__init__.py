"""Terms beside the objective: further losses over the encoded views, each with a weight.

A term is a section in `config` and a module of its name with one `Term`. It shares the objective's temperature.
"""
