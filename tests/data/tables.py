"""Columns of the tables that a data set is made of, whole."""

import pandas as pd

from spin.runtime.tables import Table


def whole(table: Table, *columns: str) -> pd.DataFrame:
    return pd.concat(table.batches(*columns), ignore_index=True)


def column(table: Table, name: str) -> list[str]:
    return list(whole(table, name)[name])
