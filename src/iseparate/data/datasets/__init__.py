"""One file for each kind of data set, or for several that share a layout; found by their presence."""
