"""The synthetic set, and two small models that are trained on it and ship with the package.

The generator: `scenes` writes a set, `drawing` and `questions` are its parts. `vdm/` is the video model and `vlm/` the
vision-language model: each holds its network, its training (`train`), its card and, in `checkpoint/`, the trained
weights; `vdm/larger/` is the record of a larger video model. Both trainings: `training`, `recipe`, `cards`.
"""
