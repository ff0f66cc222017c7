"""How a result is judged: statistics, tables, figures and the report.

May import `prompts`, `models` and what stands after them. Read first: `statistics` (mathematics on arrays), then
`results` (loads scores, refuses what cannot be compared) and `measures` (every number with its interval); `tables`,
`figures` and `report` only show them.
"""
