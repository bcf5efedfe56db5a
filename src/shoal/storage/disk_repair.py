"""Brings the disk cache's index and files together again after a crash, without reading a byte.

A blob's name is the digest of its bytes, and a tree's files are the blobs' inodes: so which content
a tree has can be told without its files. Whether the bytes are still right is read later, when a
tree is first used.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

from shoal.domain.external_data import names_beside
from shoal.storage.digest import FileDigest, content_of
from shoal.storage.disk_folders import Folders, folder_bytes, tree_stamp
from shoal.storage.disk_index import Index, Row, Tree

_COST_S: Final = 1.0  # of fetching again what nothing is known of


def repair(folders: Folders, index: Index, budget_bytes: int) -> None:
    """To be called by the only user, inside of a transaction. Every tree is doubted after it."""
    for left in folders.leaving.iterdir():
        shutil.rmtree(left)
    on_disk = {path.name for path in folders.trees.iterdir()}
    for tree in index.trees():
        if tree not in on_disk:
            index.remove(tree)
    known = set(index.trees())
    if on_disk - known:
        contents = {entry.inode(): entry.name for entry in os.scandir(folders.blobs)}
        for tree in sorted(on_disk - known):
            if not _take_back(folders, index, tree, contents, budget_bytes):
                folders.remove_tree(tree)
    index.doubt()
    used = index.contents()
    for blob in folders.blobs.iterdir():
        if blob.name not in used:
            folders.remove_blob(blob.name)
    fetches = {key for key, _ in index.fetches()}
    for folder in folders.fetching.iterdir():
        if folder.name not in fetches:
            index.reserve(folder.name, folder_bytes(folder), folder.stat().st_mtime)


def _take_back(folders: Folders, index: Index, tree: str, contents: dict[int, str],
               budget_bytes: int) -> bool:
    """Enter a tree that the index does not know. False: nothing can be told of it."""
    folder = folders.trees / tree
    rows = []
    for path in sorted(each for each in folder.rglob("*") if not each.is_dir()):
        info = path.lstat()
        if info.st_ino not in contents:
            return False
        rows.append(Row(str(path.relative_to(folder)), contents[info.st_ino], info.st_size))
    digest = f"sha256:{tree.partition('.')[0]}"
    lone = ""
    if "." in tree:
        beside = {each for row in rows for each in names_beside(row.name)}
        lone = next((row.name for row in rows if row.name not in beside), "")
    files = [FileDigest("" if row.name == lone else row.name, "", row.size_bytes, row.sha256)
             for row in rows]
    content = content_of(sorted(files, key=lambda file: file.name)) if files else None
    if content is None or content.digest != digest:
        return False
    index.add(Tree(tree, digest, lone, content.files_bytes, _COST_S, tree_stamp(folder), False),
              rows, budget_bytes)
    return True
