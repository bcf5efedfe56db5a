"""Loads models with their frameworks and runs them: one module a framework, found by entry point.

A runtime implements `ports.Runtime`; the registry finds those that are installed. Frameworks are
imported inside `load` only, so that an instance pays for what it serves. Nothing here knows of
requests, protocols, caches or where an artifact came from.

    registry.py        which runtimes there are, and which one an artifact belongs to
    sklearn.py …       one framework each; they do not know each other
    loading.py         what every load shares: files, imports, warnings, one-line reasons
    arrays.py          numpy arrays to the protocol's datatypes and back
    cuda.py            which devices NVIDIA's driver knows, and their memory
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
    catboost_file.py   is this CatBoost file whole?
    tensorflow_file.py what a TensorFlow graph would do, and what of it answers
    tensorflow_session.py
                       TensorFlow's import and sessions, as measured best
    keras_config.py    what in a Keras model would run code
    keras_graph.py     a Keras model as a TensorFlow graph
    positional.py      how models that are one function of arrays in order answer
    native_output.py   what native code prints while it is imported
    sklearn_columns.py what a fitted estimator expects of each column
    torch_graph.py     what a TorchScript graph says of its inputs and outputs
    wire_format.py     the encoding of protocol buffers, in which ONNX and TensorFlow write files
    torch_file.py      which kind of file PyTorch wrote, by its content
    torch_exported.py, torch_class.py
                       programs of torch.export; a class with its weights
    torch_device.py    PyTorch's import, and its networks on accelerators
    torch_program.py   what the runtime of PyTorch runs, whatever file it came from
    network_folder.py  is a folder with Python files a served class's or a network's?
    mlflow_signature.py
                       what an MLflow signature says; arrays to a pyfunc's data and back
    mlflow_code.py     an MLflow model's own code, each copy apart
    mlflow_environment.py
                       how what is installed differs from what an MLflow model was saved with
    huggingface_folder.py
                       what a Hugging Face folder says of its model, and what in it is refused
    huggingface_tasks.py
                       what each task answers: texts in, arrays out
    local_code.py      a model's own Python code, and at which of its lines it failed
    local_imports.py   imports of a model's own Python files, each copy apart
"""
