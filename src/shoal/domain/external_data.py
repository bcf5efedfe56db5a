"""Names the files that belong to an artifact although they lie beside it.

ONNX models keep large weights in such files, and OpenVINO's all of them. Whatever is not named here
is neither part of an artifact's digest nor looked at for trust, so runtimes must not load it.
"""

from __future__ import annotations

from typing import Final

EXTERNAL_DATA: Final = (".data", "_data")
"""What follows the artifact's name: `iris.onnx.data`, `iris.onnx_data`."""

WEIGHTS_BESIDE: Final = {".xml": ".bin"}
"""What takes the place of the artifact's suffix: `iris.bin` of `iris.xml`, as OpenVINO has it."""


_IN_ONE_FILE: Final = (
    ".joblib", ".pkl", ".pickle", ".skops", ".json", ".ubj", ".xgb", ".model", ".txt", ".lgb",
    ".lgbm", ".bst", ".cbm", ".pt", ".pth", ".pt2", ".torchscript", ".safetensors", ".keras",
    ".h5", ".hdf5", ".pb", ".graphdef", ".pmml", ".py",
)


def may_have_company(name: str) -> bool:
    """Can files of `names_beside` be there? Not of formats that have everything in one file, as
    the suffix says; of all others, lest any be missed."""
    return not name.lower().endswith(_IN_ONE_FILE)


def names_beside(name: str) -> tuple[str, ...]:
    """Of the artifact called `name`, in the same folder; they need not exist."""
    beside = [name + ending for ending in EXTERNAL_DATA]
    for suffix, ending in WEIGHTS_BESIDE.items():
        if name.lower().endswith(suffix):
            beside.append(name[: -len(suffix)] + ending)
    return tuple(beside)


def owners_of(name: str) -> tuple[str, ...]:
    """The artifacts that the file `name` may lie beside; they need not exist, nor be artifacts."""
    owners = [name.removesuffix(ending) for ending in EXTERNAL_DATA if name.endswith(ending)]
    owners += [
        name.removesuffix(ending) + suffix
        for suffix, ending in WEIGHTS_BESIDE.items() if name.endswith(ending)
    ]
    return tuple(owners)
