"""Songs with their true stems, in the layouts of the field: found, read in excerpts, checked, counted and hashed."""

from iseparate.data.open import Dataset, open_dataset
from iseparate.data.track import Track

__all__ = ["Dataset", "Track", "open_dataset"]
