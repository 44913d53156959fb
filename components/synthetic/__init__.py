"""The synthetic set, and the small video model that is trained on it.

The generator: `scenes` writes a set, `courses`, `drawing` and `questions` are its parts. The model: `model/` is the
network with all that its training takes, `train` the training, `checkpoint/` the trained weights that ship with the
package, `larger/` the record of a larger one.
"""
