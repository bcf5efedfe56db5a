"""From a path, a URI or a watched folder of models to declarations of what can be served.

`uri` → `layout` (with `triton`, `mlserver`, `model_yaml`) → `digest` → `declare`; `folder` repeats
it as files change. Reads files and their names only: imports no framework, loads no model, and
knows runtimes just as the `FormatFinder` of `formats`.
"""
