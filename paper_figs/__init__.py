"""One script a figure, each drawn from the tables of a results folder; `adarena.paper_figs.make` draws them all."""
