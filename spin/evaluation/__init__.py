"""How a result is judged: statistics, tables, figures and the report.

`statistics` is mathematics on arrays; `results` loads the scores of all models and refuses what cannot be
compared; `measures` computes every number with its interval; `tables`, `figures` and `report` only show them.
"""
