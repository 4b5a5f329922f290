"""A report of one or several runs, as a page, as Markdown or as JSON; torch-free."""
