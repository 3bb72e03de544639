"""What "done" means: keys, manifests, ledgers, partitions, and the workspace that commits them.

Contract: a stage writes one folder, `<root>/<stage>/<key>/`; its manifest is written last and is the
commit record; nothing in a committed folder changes. A ledger that does not balance fails the stage. One run at a time
makes a key: it holds the lease `<root>/.leases/<stage>-<key>.json`, and the others wait.
"""
