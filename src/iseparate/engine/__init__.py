"""Separation: file -> decode -> chunk -> model -> overlap-add -> stems -> encode."""
