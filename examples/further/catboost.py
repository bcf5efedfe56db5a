"""CatBoost: a classifier of categories, text and numbers, and a regressor saved as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from examples.cases import Case, place, question, reply

SEED: Final = 7
ROWS: Final = 3
_TREES: Final = {
    "iterations": 12, "depth": 3, "random_seed": SEED, "thread_count": 1, "logging_level": "Silent",
    "allow_writing_files": False,
}


def make(folder: Path) -> list[Case]:
    """Write `rentals.cbm` and `diabetes-trees.json`."""
    return [_rentals(folder), _diabetes(folder)]


def _rentals(folder: Path) -> Case:
    """Is a flat let within a week? By its district, its advertisement, and numbers."""
    import pandas as pd
    from catboost import CatBoostClassifier

    random = np.random.default_rng(SEED)
    districts = np.array(["Harbour", "Old Town", "Meadows", "Mill Lane"])
    words = np.array(["quiet", "sunny", "balcony", "loud", "cellar", "view", "garden"])
    adverts = np.array([" ".join(random.choice(words, 4)) for _ in range(300)])
    columns = {
        "district": districts[random.integers(0, 4, 300)],
        "area_m2": random.uniform(20, 120, 300).astype("f4"),
        "advert": adverts,
        "rent": random.uniform(500, 2500, 300).astype("f4"),
    }
    wanted = np.char.count(adverts, "sunny") + np.char.count(adverts, "garden")
    price = columns["rent"] / columns["area_m2"] + 8 * (columns["district"] == "Harbour")
    let = np.where(price - 9 * wanted < 18, "yes", "no")
    frame = pd.DataFrame(columns)
    model = CatBoostClassifier(
        cat_features=["district"], text_features=["advert"], **_TREES
    ).fit(frame, let)
    model.save_model(str(place(folder, "rentals.cbm")))
    some = np.concatenate([np.flatnonzero(let == "yes")[:2], np.flatnonzero(let == "no")[:2]])
    asked = {name: column[some] for name, column in columns.items()}
    return Case("rentals", "catboost", "rentals.cbm", question(**asked),
                reply(predict=np.asarray(model.predict(frame.iloc[some]), dtype=str)))


def _diabetes(folder: Path) -> Case:
    from catboost import CatBoostRegressor
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes()
    rows = data.data.astype("f4")
    model = CatBoostRegressor(**_TREES).fit(rows, data.target)
    model.save_model(str(place(folder, "diabetes-trees.json")), format="json")
    return Case("diabetes-trees", "catboost", "diabetes-trees.json", question(predict=rows[:ROWS]),
                reply(predict=model.predict(rows[:ROWS])))
