"""How much device memory a model takes: from its own files, never from a table of names. Pure.

`shape` reads config.json, `weights` the tensors, `facts` is what is kept of both, `cache` and `overhead` hold the
formulas, `estimate` sums them up for one rank of a tensor-parallel group, `compatibility` says which devices can
compute in the model's quantisation.
"""
