"""The synthetic band: multitrack songs from rules and a seed, with sounds that the program itself makes.

`band.render_song` makes one song in memory, `folder.render_folder` hours of them on disk.
"""
