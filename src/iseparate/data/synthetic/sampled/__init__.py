"""Sounds that others have recorded: SoundFonts, drum one-shots and a singing voice, where they are installed.

`sources` lists them with their licences; `cast.SampledCasting` lets them play.
"""
