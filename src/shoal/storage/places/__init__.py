"""Where artifacts lie, beyond this machine's files: one module for each kind of place.

    place.py           what a place is asked: `Place`, `Snapshot`, `RemoteFile`
    known.py           which place a URI belongs to
    credentials.py     who to be there: the environment's identity, or credentials by name
    object_store.py    s3://, gs://, az:// and the same over https://
    web.py             http(s)://: one file
    huggingface.py     hf://owner/model[:revision]
    oci.py             oci://registry/repository:tag
    git.py             git+https://

Nothing here knows of models, disk caches or trust; a place knows no other place.
"""
