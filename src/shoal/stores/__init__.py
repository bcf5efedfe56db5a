"""Where declarations are kept: adapters of `ports.KVStore` under one contract.

`open.py` chooses by URL. The adapters do not know each other; what they must answer alike lies in
`rules.py`, how one write is made in `singly.py`, how they wake their watches in `signal.py`.
"""
