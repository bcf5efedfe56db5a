"""PMML: a logistic regression of scikit-learn's, written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from examples.cases import Case, place, question, reply

SEED: Final = 7
_HEAD: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">
  <Header description="Is a loan paid back?"/>
  <DataDictionary>
    <DataField name="income" optype="continuous" dataType="double"/>
    <DataField name="debt" optype="continuous" dataType="double"/>
    <DataField name="home" optype="categorical" dataType="string">
      <Value value="owned"/><Value value="rented"/>
    </DataField>
    <DataField name="paid" optype="categorical" dataType="string">
      <Value value="no"/><Value value="yes"/>
    </DataField>
  </DataDictionary>
  <RegressionModel functionName="classification" normalizationMethod="logit">
    <MiningSchema>
      <MiningField name="income"/>
      <MiningField name="debt" missingValueReplacement="0"/>
      <MiningField name="home"/>
      <MiningField name="paid" usageType="target"/>
    </MiningSchema>
    <Output>
      <OutputField name="probability" optype="continuous" dataType="double"
                   feature="probability" value="yes"/>
    </Output>
"""


def make(folder: Path) -> list[Case]:
    """Write `loans.pmml`."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(SEED)
    income, debt = random.uniform(1, 9, 300), random.uniform(0, 20, 300)
    home = random.choice(np.array(["owned", "rented"]), 300)
    paid = np.where(income - 0.4 * debt + (home == "owned") + random.normal(0, 1, 300) > 1,
                    "yes", "no")
    rows = np.column_stack([income, debt, home == "owned"])
    learnt = LogisticRegression().fit(rows, paid)
    of_income, of_debt, of_home = learnt.coef_[0].tolist()
    place(folder, "loans.pmml").write_text(f"""{_HEAD}\
    <RegressionTable targetCategory="yes" intercept="{learnt.intercept_[0]!s}">
      <NumericPredictor name="income" coefficient="{of_income}"/>
      <NumericPredictor name="debt" coefficient="{of_debt}"/>
      <CategoricalPredictor name="home" value="owned" coefficient="{of_home}"/>
    </RegressionTable>
    <RegressionTable targetCategory="no" intercept="0"/>
  </RegressionModel>
</PMML>
""")
    some = np.concatenate([np.flatnonzero(paid == "yes")[:2], np.flatnonzero(paid == "no")[:2]])
    return [Case(
        "loans", "pmml", "loans.pmml",
        question(income=income[some], debt=debt[some], home=home[some]),
        reply(paid=learnt.predict(rows[some]), probability=learnt.predict_proba(rows[some])[:, 1]),
    )]
