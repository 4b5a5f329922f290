"""Search methods side by side: the same data, recipe, budgets and measurement for all."""
