from __future__ import annotations

import pytest

from iseparate.errors import UsageError
from iseparate.weights.source import parse_source


def test_sources_are_split_into_container_and_member():
    def parts(text: str) -> tuple[str, str, str | None]:
        parsed = parse_source(text)
        return parsed.kind, parsed.container, parsed.member

    assert parts("wheel:a-b==1.2.post1/pkg/x.ckpt") == ("wheel", "a-b==1.2.post1", "pkg/x.ckpt")
    assert parts("https://a.org/x.th") == ("url", "https://a.org/x.th", None)
    assert parts("https://a.org/x.tar.gz#m/y.th") == ("url", "https://a.org/x.tar.gz", "m/y.th")
    assert parts("http://127.0.0.1:80/x") == ("url", "http://127.0.0.1:80/x", None)
    assert parts("hf:org/repo/a/x.th@v1") == ("hub", "org/repo/a/x.th@v1", None)
    assert parts("file:/a/x.zip#y") == ("file", "/a/x.zip", "y")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.th",
        "ftp://a.org/x",
        "http://a.org/x",
        "http://127.0.0.1.evil.org/x",
        "https:///x",
        "https://user:secret@a.org/x",
        "https://a.org:port/x",
        "https://[bad/x",
        "https://a.org/x\n",
        "file:relative/x",
        "file:/a.zip#../x",
        "https://a.org/x.zip#/etc/passwd",
        "https://a.org/x.zip#C:/x",
        r"https://a.org/x.zip#..\x",
        "wheel:pkg/x",
        "wheel:pkg==1.0",
        "wheel:pkg>=1.0/x",
        "wheel:--index-url=http://evil==1.0/x",
        "wheel:pkg==1.0/../x",
        "hf:repo/x",
        "hf:org/repo/../x",
    ],
)
def test_what_is_no_source_is_refused(text: str):
    with pytest.raises(UsageError, match="expected"):
        parse_source(text)
