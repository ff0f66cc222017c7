"""The schema of params.yaml. Every key is required and none has a default: the file is the only place that holds values.

May import nothing of `spin` but its errors. Read first: `sections` (what there is), then the section you are after;
`checks` is what sections ask of each other, `messages` the sentence for each breach, `schema` the way in.
"""
