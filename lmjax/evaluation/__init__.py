"""`lmjax eval`: a trained run over its validation split, with the metrics of its field, as a table, JSON and a page."""
