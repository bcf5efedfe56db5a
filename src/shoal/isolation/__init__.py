"""Models in processes of their own: the processes, how they are spoken to, their environments.

What runs there is any runtime. `host` and what it imports also run in environments of models,
beside numpy, msgspec, ml_dtypes and orjson alone, so nothing may be imported here.
"""
