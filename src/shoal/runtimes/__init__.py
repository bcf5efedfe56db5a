"""Loads models with their frameworks and runs them: one module a framework, found by entry point.

A runtime implements `ports.Runtime`; the registry finds those that are installed. Frameworks are
imported inside `load` only, so that an instance pays for what it serves. Nothing here knows of
requests, protocols, caches or where an artifact came from.

    registry.py        which runtimes there are, and which one an artifact belongs to
    sklearn.py …       one framework each; they do not know each other
    loading.py         what every load shares: files, imports, warnings, one-line reasons
    arrays.py          numpy arrays to the protocol's datatypes and back
    binding.py         names that people declared, to names that the framework knows
    features.py        columns or a matrix: what models of tables take
    tabular.py         how such models answer
    conversion.py      whether a form converted to ONNX may answer instead of the original
    samples.py         rows on which the two are compared
    converters.py, sklearn_onnx.py, xgboost_onnx.py, lightgbm_onnx.py
                       how each framework's models become ONNX
    onnx_session.py    ONNX Runtime's sessions, as measured best
    xgboost_call.py, lightgbm_call.py
                       the frameworks' predictions without what their wrappers repeat
    lightgbm_file.py   is this LightGBM file whole?
    sklearn_columns.py what a fitted estimator expects of each column
    torch_graph.py     what a TorchScript graph says of its inputs and outputs
    local_imports.py   imports of a model's own Python files, each copy apart
"""
