"""Sound in and out: files become blocks of samples and blocks become files, never a whole song at once."""
