"""What a person reads and a program keeps: rows, text, figure, page, comparison.

Decides: columns, wording and drawing of a report.
Must never know: Keras, models, how a number was measured. Plain values only.
Start reading: `report`, then `columns`: which number a table shows, and how. A number that is wrong
in the rows of a report too was measured wrongly: by the folders that audit or initialize.
"""
