"""From the texts of a training batch to tokens: policies, which may drop or change tokens by keyed draws.

A policy is a section in `config` and a module of its name with one `TextTokens`. Evaluation never uses one.
"""
