"""What a file says about a song, carried from the source to its stems.

Tags are a plain ``dict[str, str]`` with one vocabulary for every format (`CANONICAL_KEYS`). Only what is as
true of a stem as of its song is carried: replay gain, encoder names and delays, fingerprints and recording
identifiers describe the mixture's sound, and a stem that bore them would lie.

What comes from a file is not trusted: values are bounded in length and stripped of control characters, a
cover must look like a JPEG or a PNG and may not be larger than `MAX_COVER_BYTES`.

Sources: ID3v2.4 (id3.org, "ID3 tag version 2.4.0 - Native Frames"); FLAC's METADATA_BLOCK_PICTURE (RFC 9639,
section 8.8), which Ogg formats carry in base64; RIFF and RF64 (EBU Tech 3306).
"""

from __future__ import annotations

import base64
import re
import struct
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import IO

Cover = tuple[str, bytes]
"""A picture: its MIME type and its bytes."""

MAX_COVER_BYTES = 16 * 2**20
MAX_LINE_CHARACTERS = 1000
MAX_TEXT_CHARACTERS = 20_000

_TEXT_KEYS = frozenset({"comment", "lyrics"})  # these may have line breaks

# Our key: (FFmpeg's generic key, the ID3v2.4 frame).
_VOCABULARY = {
    "title": ("title", "TIT2"),
    "artist": ("artist", "TPE1"),
    "album": ("album", "TALB"),
    "albumartist": ("album_artist", "TPE2"),
    "date": ("date", "TDRC"),
    "genre": ("genre", "TCON"),
    "track": ("track", "TRCK"),
    "disc": ("disc", "TPOS"),
    "comment": ("comment", "COMM"),
    "composer": ("composer", "TCOM"),
    "lyricist": ("lyricist", "TEXT"),
    "performer": ("performer", "TPE3"),
    "copyright": ("copyright", "TCOP"),
    "publisher": ("publisher", "TPUB"),
    "language": ("language", "TLAN"),
    "grouping": ("grouping", "TIT1"),
    "compilation": ("compilation", "TCMP"),
    "bpm": ("TBPM", "TBPM"),
    "key": ("TKEY", "TKEY"),
    "lyrics": ("lyrics", "USLT"),
}

CANONICAL_KEYS = tuple(_VOCABULARY)

# Every other spelling under which FFmpeg or a tagger hands over one of our keys.
_SPELLINGS = {
    "album artist": "albumartist",
    "album_artist": "albumartist",
    "year": "date",
    "tyer": "date",
    "tracknumber": "track",
    "trkn": "track",
    "discnumber": "disc",
    "description": "comment",
    "text": "lyricist",
    "tpub": "publisher",
    "label": "publisher",
    "organization": "publisher",
    "tbpm": "bpm",
    "tmpo": "bpm",
    "tkey": "key",
    "initialkey": "key",
    "initial_key": "key",
    "tit1": "grouping",
    "uslt": "lyrics",
    "unsyncedlyrics": "lyrics",
}


def canonical_tags(raw: Mapping[str, str]) -> dict[str, str]:
    """Keep the tags of `raw` that may be carried, under canonical keys, cleaned and bounded.

    Where two spellings of one key compete, the canonical one wins. Keys outside the vocabulary are dropped.
    """
    tags: dict[str, str] = {}
    for spelling, value in raw.items():
        name = str(spelling).strip().lower()
        key = _SPELLINGS.get(name, "lyrics" if name.startswith("lyrics-") else name)
        if key not in _VOCABULARY or (key in tags and key != name):
            continue
        cleaned = clean_value(key, value)
        if cleaned and (key, cleaned) != ("language", "und"):  # MP4's "undetermined" says nothing
            tags[key] = cleaned
    return {key: tags[key] for key in CANONICAL_KEYS if key in tags}


def clean_value(key: str, value: str) -> str:
    """`value` as text that any file format can hold: valid Unicode, no control characters, of bounded length.

    Line breaks stay in lyrics and comments and become spaces elsewhere.
    """
    is_text = key in _TEXT_KEYS
    limit = MAX_TEXT_CHARACTERS if is_text else MAX_LINE_CHARACTERS
    # Cut before the costly steps: a hostile value may be many megabytes long.
    text = str(value)[: 4 * limit].encode("utf-8", "replace").decode("utf-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not is_text:
        text = re.sub(r"\s+", " ", text)
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Cn"))
    return text.strip()[:limit].rstrip()


def ffmpeg_metadata(tags: Mapping[str, str]) -> dict[str, str]:
    """Canonical tags under the keys that FFmpeg's muxers translate for each container."""
    return {_VOCABULARY[key][0]: value for key, value in canonical_tags(tags).items()}


def picture_type(picture: bytes) -> str | None:
    """Tell the MIME type of a JPEG or PNG by its first bytes; None for anything else."""
    if picture.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return None


def usable_cover(cover: Cover | None) -> tuple[Cover | None, str | None]:
    """`cover` if it can be carried, else None and a sentence that says why it is dropped."""
    if cover is None:
        return None, None
    picture = cover[1]
    if len(picture) > MAX_COVER_BYTES:
        size, limit = len(picture) / 2**20, MAX_COVER_BYTES // 2**20
        return (
            None,
            f"the cover picture was dropped: it has {size:.0f} MB, and at most {limit} MB are carried.",
        )
    mime = picture_type(picture)
    if mime is None:
        return None, "the cover picture was dropped: it is neither a JPEG nor a PNG."
    return (mime, picture), None


def picture_block(cover: Cover) -> str:
    """FLAC's picture block of a front cover in base64: the value of METADATA_BLOCK_PICTURE in Ogg files."""
    mime, picture = cover[0].encode("ascii"), cover[1]
    block = struct.pack(">II", 3, len(mime)) + mime + struct.pack(">I", 0)
    block += struct.pack(">IIII", 0, 0, 0, 0)  # size and depth: zero leaves them to the reader of the picture
    block += struct.pack(">I", len(picture)) + picture
    return base64.b64encode(block).decode("ascii")


def id3_tag(tags: Mapping[str, str], cover: Cover | None) -> bytes:
    """Build an ID3v2.4 tag with `tags` and a front cover; empty if there is nothing to say."""
    frames = b"".join(_id3_frame(_VOCABULARY[key][1], value) for key, value in canonical_tags(tags).items())
    if cover is not None:
        mime, picture = cover
        frames += _raw_id3_frame("APIC", b"\x03" + mime.encode("ascii") + b"\0\x03\0" + picture)
    if not frames:
        return b""
    return b"ID3\x04\x00\x00" + _synchsafe(len(frames)) + frames


def _id3_frame(name: str, text: str) -> bytes:
    # 3 announces UTF-8; comments and lyrics also name a language ("und": not said) and an empty description.
    described = b"\x03und\0" if name in ("COMM", "USLT") else b"\x03"
    return _raw_id3_frame(name, described + text.encode("utf-8"))


def _raw_id3_frame(name: str, body: bytes) -> bytes:
    return name.encode("ascii") + _synchsafe(len(body)) + b"\0\0" + body


def _synchsafe(number: int) -> bytes:
    return bytes((number >> shift) & 0x7F for shift in (21, 14, 7, 0))


def append_wav_id3(path: Path, tag: bytes) -> bool:
    """Add an ``id3`` chunk to the end of a finished WAV or RF64 file and mend the sizes in its header.

    Returns:
        False, and the file is as it was, where the chunk would push a plain WAV over its limit of 4 GiB.

    """
    with path.open("r+b") as file:
        header = file.read(12)
        file_bytes = file.seek(0, 2)
        chunk = b"\0" * (file_bytes % 2) + b"id3 " + struct.pack("<I", len(tag)) + tag + b"\0" * (len(tag) % 2)
        riff_bytes = file_bytes + len(chunk) - 8
        if header[:4] == b"RF64":
            file.write(chunk)
            _mend_ds64(file, riff_bytes)
        elif riff_bytes <= 0xFFFFFFFE:
            file.write(chunk)
            file.seek(4)
            file.write(struct.pack("<I", riff_bytes))
        else:
            return False
    return True


def _mend_ds64(file: IO[bytes], riff_bytes: int) -> None:
    file.seek(12)
    if file.read(4) != b"ds64":
        raise ValueError("an RF64 file does not begin with its ds64 chunk")
    file.seek(20)
    file.write(struct.pack("<Q", riff_bytes))
