"""One file per architecture. A module here whose name has no leading underscore is found by its presence."""
