"""The hostile corpus: what each URL of the hostile web must come to.

Oracle: the list of reasons in the plan of the guard, and for each URL what it was made for.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from tests.servers.hostile import (
    ABSURD_RULES,
    ABSURD_WAITS,
    DOMAIN,
    LONG_PATH,
    PICTURE,
    STRANGE_CODINGS,
    Web,
    bombs_of,
)
from tests.servers.odd_pictures import (
    BLACK,
    BLUE,
    GREEN,
    HEIGHT,
    QUADRANTS,
    RED,
    WHITE,
    WIDTH,
    YELLOW,
    broken_exif,
)

Colour = tuple[int, int, int]

NO_ADDRESSES = (
    "[]",
    "[urls.test]",
    "[pictures]",
    "[v1.x]",
    "[v1.urls.test]",
    "[V7.urls.test]",
    "[v1.x:y]",
    "[vf.1:2]",
    "[::g]",
    "[1:2]",
    "[:]",
    "[1.2.3.4]",
    "[127.0.0.1]",
    "[12345::1]",
    "[1:2:3:4:5:6:7:8:9]",
    "[::1::2]",
    "[::1.2.3]",
    "[::1.2.3.256]",
    "[2606:4700::1%25eth0]",
    "[2606:4700::1%eth0]",
    "[2606:4700::1%25]",
    "[ ::1 ]",
    "[[::1]]",
    "[::1]]",
    "[::1]x",
    "x[::1]",
    "[::1].urls.test",
    "%5Burls.test%5D",
    "[urls%2Etest]",
    "[0x7f000001]",
    "[2130706433]",
)
"""Hosts in brackets that are no address; no name server may be asked for any part of them."""
CLOSED_PORTS = (1, 21, 22, 25, 79, 81, 442, 444, 3128, 5432, 6379, 8000, 8080, 8443, 9200, 65_535)

TRANSIENT = frozenset(
    {
        "connection",
        "dns",
        "http_429",
        "http_5xx",
        "robots_unreachable",
        "timeout",
        "truncated",
    }
)
"""Reasons that may be gone at the next try; what fails for another one is not asked for again."""

SHOWN = (WIDTH, HEIGHT)
SHA256 = hashlib.sha256(PICTURE).hexdigest()


@dataclass(frozen=True)
class Case:
    """One URL and its end.

    Args:
        url: may hold ports in curly brackets: `{web}`, `{canary}` and others of Web.ports.
        reason: None for success.
        also: further reasons that are as right, where two checks find something to refuse.
        sha256: what the table says of the bytes.
        size: pixels of the picture as it is shown, if it is a success.
        corners: colours of its four quadrants.
        asked: which path of which site, as `site/path`, must have been asked for `times` times in the whole run.
        times: None where the number is not fixed.
        has_exif: a picture that is handed on as it is, with metadata that say nothing.
        is_broken: a picture that the guard may let through, since it decodes only what it changes; whoever decodes it
            must find out.
    """

    name: str
    url: str
    reason: str | None = None
    also: tuple[str | None, ...] = ()
    sha256: str = ""
    size: tuple[int, int] = SHOWN
    corners: tuple[Colour, ...] = QUADRANTS
    asked: str | None = None
    times: int | None = None
    has_exif: bool = False
    is_broken: bool = False

    @property
    def reasons(self) -> tuple[str | None, ...]:
        return (self.reason, *self.also)

    def at(self, web: Web) -> str:
        """Return the URL on a running web."""
        return web.fill(self.url)

    def requests(self, web: Web) -> int:
        """Return how often the path was asked for."""
        assert self.asked is not None
        site, slash, path = self.asked.partition("/")
        return web.counts.requests(site, slash + path)


def on(site: str, path: str, reason: str | None = None, **more: Any) -> Case:
    """Return the case of a path of a site, which a transient failure has asked for twice and others once."""
    times = more.pop("times", 2 if reason in TRANSIENT else 1)
    named = {"asked": f"{site}{path}", "times": times, **more}
    return Case(f"{site}{path}", f"http://{site}.{DOMAIN}:{{web}}{path}", reason, **named)


def hostile_cases() -> list[Case]:
    """Return the whole corpus; names are unique."""
    parts = (
        _addresses(),
        _names(),
        _urls(),
        _ports(),
        _refused_urls(),
        _redirects(),
        _statuses(),
        _protocol(),
        _lengths(),
        _slow(),
        _tls(),
        _opt_outs(),
        _robots(),
        _sums(),
        _pictures(),
        _no_pictures(),
        _bombs(),
    )
    return [case for part in parts for case in part]


def _addresses() -> list[Case]:
    """The canary, and other places that are nobody's business, by every form of an address.

    Nothing is asked for there but `/` on a port of no meaning: a guard with a hole must not reach a real service.
    """
    loopback = [
        "127.0.0.1",
        "127.0.0.2",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "0177.0.0.01",
        "00000177.0.0.1",
        "017700000001",
        "0",
        "0x0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::FFFF:7F00:0001]",
        "[::ffff:0.0.0.0]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "localhost",
        "LOCALHOST",
        "localhost.",
    ]
    private = [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "169.254.170.2",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "168.63.129.16",
        "0.1.2.3",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[100::1]",
    ]
    either = [
        "127%2E0%2E0%2E1",
        "%31%32%37.0.0.1",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
        "127\u30020\u30020\u30021",
        "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
    ]
    refused = "private_address"
    return [
        *(Case(f"loopback {h}", f"http://{h}:{{canary}}/", refused) for h in loopback),
        *(Case(f"private {h}", f"http://{h}:{{canary}}/", refused) for h in private),
        *(Case(f"written {h}", f"http://{h}:{{canary}}/", refused, ("bad_url",)) for h in either),
        Case("loopback with TLS", "https://127.0.0.1:{canary}/", refused),
        Case("a site by its address", "http://127.0.0.1:{web}/good", refused),
        Case("a site on another port", "http://pictures.test:{canary}/good", refused),
        Case("a site on the usual port", "http://pictures.test/good", refused),
        Case("a public form of a number", "http://3224682761:{canary}/", "bad_url"),
        Case("a number too large", "http://4294967297:{canary}/", "bad_url"),
        Case("a byte too large", "http://127.0.0.256:{canary}/", "bad_url"),
        Case("no octal number", "http://08.0.0.1:{canary}/", "bad_url"),
        Case("five numbers", "http://127.0.0.0.1:{canary}/", "bad_url"),
    ]


def _names() -> list[Case]:
    private = [
        "private.test",
        "private-six.test",
        "mapped.test",
        "alias.test",
        "unspecified.test",
        "mixed.test",
        "PRIVATE.TEST",
        "private.test.",
    ]
    return [
        *(Case(n, f"http://{n}:{{canary}}/", "private_address") for n in private),
        Case("metadata by name", "http://metadata.google.internal:{canary}/", "private_address"),
        Case("a cluster by name", "http://kubernetes.default.svc:{canary}/", "private_address"),
        # The first answer is harmless, and leads nowhere; the second would lead to the canary.
        Case(
            "rebinding",
            "http://rebinding.test:{canary}/",
            "connection",
            ("timeout", "private_address"),
        ),
        Case("no such name", "http://nowhere.test:{web}/good.jpg", "dns"),
        Case("a name without address", "http://no-address.test:{web}/good.jpg", "dns"),
        Case("name server fails", "http://server-fails.test:{web}/good.jpg", "dns"),
        Case("name server refuses", "http://refuses.test:{web}/good.jpg", "dns"),
        Case("name server is silent", "http://silent.test:{web}/good.jpg", "dns", ("timeout",)),
        Case("name server is mad", "http://garbage.test:{web}/good.jpg", "dns", ("timeout",)),
        # The name server answers at the second question; whether that is put so soon is left to the guard.
        on("at-last", "/good.jpg", "dns", also=(None,), times=None),
    ]


def _urls() -> list[Case]:
    """Odd URLs that are right, or that every browser sets right."""
    site = "http://urls.test:{web}"
    asked = {
        "with a space": (f"{site}/with space.jpg", "/with%20space.jpg"),
        "with an accent": (f"{site}/caf\u00e9.jpg", "/caf%C3%A9.jpg"),
        "in Chinese": (f"{site}/\u56fe.jpg?\u5b57=\u503c", "/%E5%9B%BE.jpg?%E5%AD%97=%E5%80%BC"),
        "in Latin 1": (f"{site}/caf%E9.jpg", "/caf%E9.jpg"),
        "with a slash in quotes": (f"{site}/a%2Fb.jpg", "/a%2Fb.jpg"),
        "with a plus": (f"{site}/a+b.jpg", "/a+b.jpg"),
        "with a percent sign": (f"{site}/%25.jpg", "/%25.jpg"),
        "with a URL in its query": (
            f"{site}/a.jpg?url=http://other.test/&sha256=00",
            "/a.jpg?url=http://other.test/&sha256=00",
        ),
        "with quoted signs": (f"{site}/a.jpg?q=%26%3D%23", "/a.jpg?q=%26%3D%23"),
        "long": (site + LONG_PATH, LONG_PATH),
        "without a path": (site, "/"),
        "with a query and no path": (f"{site}?query", "/?query"),
        "shouted": ("HTTP://URLS.TEST:{web}/good.jpg", "/good.jpg"),
        "with a user in its fragment": (f"{site}#@127.0.0.1:{{canary}}/", "/"),
    }
    twice = {"/": 2}
    return [
        *(
            Case(f"URL {name}", url, asked=f"urls{path}", times=twice.get(path, 1))
            for name, (url, path) in asked.items()
        ),
        *(Case(f"the same again {n}", f"{site}/same.jpg") for n in range(2)),
        Case("the same with a fragment", f"{site}/same.jpg#top", asked="urls/same.jpg", times=3),
        Case("a host with an accent", "http://b\u00fccher.test:{web}/good.jpg"),
        Case("a host in Punycode", "http://xn--bcher-kva.test:{web}/good.jpg"),
        Case("a host with an underscore", "http://under_score.test:{web}/good.jpg"),
    ]


def _ports() -> list[Case]:
    """A public address, which nobody answers at; whether a port is opened is seen before."""
    site = "http://harmless.test"
    return [
        *(Case(f"port {n}", f"{site}:{n}/good.jpg", "bad_port") for n in CLOSED_PORTS),
        Case("port of TLS without it", "https://harmless.test:8443/good.jpg", "bad_port"),
        Case("port of an address", "http://192.52.193.1:8080/good.jpg", "bad_port"),
        Case("port of an address of six", "http://[2606:4700::1]:8080/good.jpg", "bad_port"),
        Case("another port of an open host", "http://urls.test:22/good.jpg", "private_address"),
        on("redirects", "/to/closed-port", "bad_port"),
        on("redirects", "/to/closed-port-of-six", "bad_port"),
    ]


def _refused_urls() -> list[Case]:
    site = "http://urls.test:{web}"
    urls = {
        "user": "http://someone@urls.test:{web}/good.jpg",
        "user and password": "http://some:one@urls.test:{web}/good.jpg",
        "a site as the user": "http://urls.test:{web}@127.0.0.1:{canary}/",
        "a site as user and password": "http://urls.test:80@127.0.0.1:{canary}/",
        "backslash before an at": "http://127.0.0.1:{canary}\\@urls.test:{web}/good.jpg",
        "backslash after an at": "http://urls.test:{web}@127.0.0.1:{canary}\\good.jpg",
        "backslashes for slashes": "http:\\\\127.0.0.1:{canary}\\good.jpg",
        "backslash in the path": site + "/a\\b.jpg",
        "tab": site + "/go\tod.jpg",
        "tab in the host": "http://127.0.0\t.1:{canary}/",
        "line end": site + "/good.jpg\r\nHost: 127.0.0.1",
        "null": site + "/good.jpg\0.png",
        "escape": site + "/\x1b[31m.jpg",
        "not UTF-8": site + "/\udcff.jpg",
        "empty host": "http:///good.jpg",
        "port and no host": "http://:{web}/good.jpg",
        "no slashes": "http:urls.test/good.jpg",
        "port too large": "http://urls.test:99999/good.jpg",
        "port of letters": "http://urls.test:http/good.jpg",
        "negative port": "http://urls.test:-80/good.jpg",
        "port 0": "http://urls.test:0/good.jpg",
        "two ports": "http://urls.test:80:{canary}/good.jpg",
        "label too long": "http://" + "a" * 64 + ".test:{web}/good.jpg",
        "host too long": "http://" + "a.long.name." * 25 + "test:{web}/good.jpg",
        "empty label": "http://urls..test:{web}/good.jpg",
        "only a dot": "http://.:{web}/good.jpg",
        "space in the host": "http://urls.test 127.0.0.1:{canary}/",
        "sign in the host": "http://urls.test<b>:{web}/good.jpg",
        "half an address": "http://[::1:{canary}/",
        **{f"no address: {host}": f"http://{host}:{{web}}/good.jpg" for host in NO_ADDRESSES},
        "bad Punycode": "http://xn--a-ecp-.\u00ad.test:{web}/good.jpg",
    }
    schemes = {
        "file": "file:///etc/passwd",
        "file of a host": "file://urls.test/etc/passwd",
        "data": "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "ftp": "ftp://127.0.0.1:{canary}/good.jpg",
        "gopher": "gopher://127.0.0.1:{canary}/_GET%20/",
        "script": "javascript:alert(1)",
        "s3": "s3://bucket/key",
        "none": "//urls.test:{web}/good.jpg",
    }
    either = ("bad_url",)
    return [
        *(Case(f"bad URL: {name}", url, "bad_url") for name, url in urls.items()),
        *(Case(f"scheme {name}", url, "bad_scheme", either) for name, url in schemes.items()),
        Case(
            "a site in the fragment",
            "http://127.0.0.1:{canary}#@urls.test:{web}/good.jpg",
            "private_address",
        ),
        # Parsers agree on an empty user name: there is none.
        Case("empty user", "http://@pictures.test:{web}/good", "bad_url", (None,)),
        Case("very long URL", site + "/" + "a" * 20_000, "http_404", ("bad_url",)),
    ]


def _redirects() -> list[Case]:
    private = (
        "loopback",
        "decimal",
        "short",
        "six",
        "mapped",
        "metadata",
        "name",
        "other-port",
        "tls",
        "two-slashes",
    )
    refused = {
        **dict.fromkeys(("file", "data", "ftp", "gopher", "script"), "bad_scheme"),
        **dict.fromkeys(("backslash", "two-backslashes", "user"), "bad_url"),
        **dict.fromkeys(("half-an-address", "port", "no-address", "future", "zone"), "bad_url"),
        "disallowed": "robots_disallow",
        "itself": "redirect",
        "one": "redirect",
        "empty": "redirect",
    }
    right = ("spaces", "german", "relative/here", "root", "query", "fragment", "same-host")
    times = {"itself": None, "one": None, "empty": None}  # a loop may be gone round
    return [
        *(on("redirects", f"/to/{name}", "private_address") for name in private),
        *(
            on("redirects", f"/to/{name}", reason, times=times.get(name, 1))
            for name, reason in refused.items()
        ),
        *(on("redirects", f"/to/{name}") for name in right),
        *(on("redirects", f"/status/{n}") for n in (301, 302, 303, 307, 308)),
        on("redirects", "/to/nowhere", "dns"),
        on("redirects", "/nowhere-said", "redirect"),
        on("redirects", "/big-body"),
        on("redirects", "/chain/4", times=None),
        on("redirects", "/chain/9", "redirect", times=None),
    ]


def _statuses() -> list[Case]:
    reasons = {
        **dict.fromkeys((400, 401, 418, 451), "http_4xx"),
        **{n: f"http_{n}" for n in (403, 404, 410)},
        **dict.fromkeys((500, 501, 502), "http_5xx"),
    }
    then_good = ("500-then-good", "reset-then-good", "silent-then-good")
    absurd = [f"busy-absurd-{number}" for number in range(len(ABSURD_WAITS))]
    busy = ("busy-once", "busy-till-2020", "busy-in-words", "down-once", *absurd)
    return [
        *(on("statuses", f"/{number}", reason) for number, reason in reasons.items()),
        *(on("statuses", f"/{name}", times=2) for name in then_good),
        *(on(site, "/good.jpg", times=2) for site in busy),
        on("statuses", "/picture-of-404", "http_404"),
        on("statuses", "/204", "not_an_image"),
        on(
            "statuses",
            "/206",
            "undecodable",
            also=("truncated", "bad_response"),
            times=None,
            is_broken=True,
        ),
        on("statuses", "/304", "bad_response", also=("redirect", "not_an_image"), times=None),
        on("busy-always", "/good.jpg", "http_429"),
        on("busy-all-day", "/good.jpg", "http_429", times=1),
        on("down-always", "/good.jpg", "http_5xx"),
    ]


def _protocol() -> list[Case]:
    bad = (
        "not-http",
        "no-head",
        "status-of-letters",
        "endless-head",
        "endless-line",
        "endless-first-line",
        "long-line",
        "many-fields",
        "null-in-head",
        "letters-as-length",
        "negative-length",
        "two-lengths",
        "no-hex-as-chunk",
    )
    good = ("no-reason", "old", "latin-field", "byte-by-byte")
    return [
        *(on("protocol", f"/{name}", "bad_response") for name in bad),
        *(on("protocol", f"/{name}") for name in good),
        # A kept connection that ends without a word is asked again on a new one, whatever the number of tries.
        on("protocol", "/hangs-up", "connection", times=None),
        on("protocol", "/resets", "connection", times=None),
        on("protocol", "/half-a-head", "bad_response", also=("connection",), times=None),
        on("protocol", "/endless-continue", "timeout", also=("bad_response",), times=None),
        Case("nobody listens", "http://tls.test:{closed}/good.jpg", "connection"),
        Case(
            "clear where TLS is spoken", "http://tls.test:{tls}/", "connection", ("bad_response",)
        ),
    ]


def _lengths() -> list[Case]:
    too_large = (
        "announced-too-large",
        "endless",
        "endless-picture",
        "endless-chunks",
        "one-endless-chunk",
    )
    good = ("nothing-announced", "chunks", "identity", "identity-shouted", "no-coding")
    coded = (
        "gzip",
        "deflate",
        "no-gzip",
        "cut-gzip",
        "unknown-coding",
        "gzip-bomb",
        "endless-gzip",
        "gzip-of-gzip-bomb",
        "packed-padding",
        "packed-transfer",
        "two-codings",
        *(f"coded-{number}" for number in range(len(STRANGE_CODINGS))),
    )
    cut = ("longer", "cut-chunks", "cut-between-chunks", "reset-in-body")
    half = ("undecodable", "bad_response", "truncated")
    return [
        *(on("lengths", f"/{name}", "body_too_large") for name in too_large),
        *(on("lengths", f"/{name}") for name in good),
        *(
            on("lengths", f"/{name}", "truncated", also=("connection",))
            if name == "reset-in-body"
            else on("lengths", f"/{name}", "truncated")
            for name in cut
        ),
        *(
            on("lengths", f"/{name}", half[0], also=half[1:], times=None, is_broken=True)
            for name in ("shorter", "shorter-with-more")
        ),
        *(on("lengths", f"/{name}", "bad_response") for name in coded),
    ]


def _slow() -> list[Case]:
    silent = ("silence", "silence-in-head", "silence-before-body", "silence-in-body")
    silent_host = ("robots_unreachable", ("timeout",))
    return [
        *(on("slow", f"/{name}", "timeout") for name in (*silent, "drip", "drip-of-head")),
        on("slow", "/a-little"),
        # A host is silent over the first thing that it is asked, its robots.txt.
        Case("silent port", "http://tls.test:{silent}/good.jpg", *silent_host),
        Case("silent port with TLS", "https://tls.test:{silent}/good.jpg", *silent_host),
    ]


def _tls() -> list[Case]:
    wrong = ("another_host", "expired", "stranger")
    return [
        *(Case(f"TLS {kind}", f"https://tls.test:{{{kind}}}/good.jpg", "tls") for kind in wrong),
        Case("TLS", "https://tls.test:{tls}/good.jpg"),
        Case("from TLS to clear", "https://tls.test:{tls}/down", asked="tls/down", times=1),
        Case("TLS where none is spoken", "https://pictures.test:{web}/good", "tls"),
    ]


def _opt_outs() -> list[Case]:
    refused = (
        "noai",
        "noimageai",
        "noindex",
        "noimageindex",
        "shouted",
        "in-a-list",
        "in-the-second",
        "to-us",
        "to-us-shouted",
        "to-us-second",
        "name-in-lower-case",
        "after-noai",
        "endless",
    )
    others = (
        "to-another",
        "to-others",
        "of-something-else",
        "part-of-a-word",
        "empty",
        "after-never",
        "after-digits",
    )
    return [
        *(on("opt-out", f"/{name}", "opt_out_header") for name in refused),
        *(on("opt-out", f"/{name}") for name in others),
    ]


def _robots() -> list[Case]:
    shut = "robots_disallow"
    closed = (
        "closed",
        "closed-to-us",
        "closed-by-pattern",
        "closed-with-mark",
        "closed-in-dos",
        "robots-is-huge",
        "robots-is-endless",
        "robots-leads-on",
    )
    opened = (
        "closed-to-others",
        "open-to-us",
        "robots-is-a-page",
        "robots-is-noise",
        "robots-is-empty",
        "robots-404",
        "robots-403",
        *ABSURD_RULES,
    )
    unreachable = (
        "robots-500",
        "robots-is-silent",
        "robots-is-packed",
        "robots-counts-for-all",
        "robots-leads-to-a-port",
    )
    inside = ("private_address",)
    return [
        *(on(site, "/good.jpg", shut, times=0) for site in closed),
        *(on(site, "/good.jpg") for site in opened),
        *(on(site, "/good.jpg", "robots_unreachable", times=0) for site in unreachable),
        on("robots-hangs-up", "/good.jpg", "connection", also=("robots_unreachable",), times=0),
        on("partly-closed", "/good.jpg"),
        on("partly-closed", "/private/shut.jpg", shut, times=0),
        on("partly-closed", "/private/open.jpg"),
        on("closed-by-pattern", "/other.png"),
        on("robots-leads-inside", "/good.jpg", "robots_unreachable", also=inside, times=0),
        # RFC 9309 lets a crawler take too many redirects for a robots.txt that is not there.
        on("robots-leads-round", "/good.jpg", "robots_unreachable", also=(None,), times=None),
    ]


def _sums() -> list[Case]:
    url = "http://pictures.test:{web}/good"
    return [
        Case("sum", url, sha256=SHA256),
        Case("sum in capitals", url, sha256=SHA256.upper()),
        Case("sum of something else", url, "sha256_mismatch", sha256="0" * 64),
        Case(
            "sum of a page",
            "http://files.test:{web}/again.html",
            "sha256_mismatch",
            ("not_an_image",),
            sha256=SHA256,
        ),
    ]


def _pictures() -> list[Case]:
    gray = tuple((n, n, n) for n in (76, 150, 29, 226))  # luma of the four colours, ITU-R 601
    white_first = (WHITE, GREEN, BLUE, YELLOW)
    alike = (
        "good",
        "progressive.jpg",
        "cmyk.jpg",
        "telephone.jpg",
        "more-behind-it.jpg",
        "palette.png",
        "animated.png",
        "still.gif",
        "animated.gif",
        "lossy.webp",
        "animated.webp",
        "plain.bmp",
        "plain.tiff",
        "packed.tiff",
        "cmyk.tiff",
        "circle.tiff",
        "as-text",
        "no-type",
        "telephone-alone.jpg",
        *(f"film.{form}" for form in ("jpeg", "png", "gif", "webp", "bmp", "tiff")),
        "film-progressive.jpg",
        "film-telephone.jpg",
        "film-and-trailer.jpg",
        "scans-behind.jpg",
        "zeros-behind.jpg",
        "padding-behind.jpg",
        "twice.jpg",
        "twice.png",
        "half-a-chunk-behind.png",
        "exif-behind.png",
        "frames-behind.gif",
    )
    over_white = ("palette-alpha.png", "alpha.png", "alpha.webp")
    turned = (BLUE, RED, YELLOW, GREEN)
    return [
        *(on("pictures", f"/{name}", times=None) for name in alike),
        *(on("pictures", f"/exif-{name}.jpg", has_exif=True) for name in broken_exif()),
        *(on("pictures", f"/{name}", corners=white_first) for name in over_white),
        on("pictures", "/turned.jpg", size=(HEIGHT, WIDTH), corners=turned),
        on("pictures", "/film-turned.jpg", size=(HEIGHT, WIDTH), corners=turned),
        on("pictures", "/gray.jpg", corners=gray),
        on("pictures", "/gray-16.png", corners=((200, 200, 200),) * 4),
        on("pictures", "/colour-16.png", corners=(RED,) * 4),
        on("pictures", "/gray-alpha.png", corners=(WHITE, *((n, n, n) for n in (80, 160, 240)))),
        on("pictures", "/two-colours.png", corners=(BLACK, WHITE, BLACK, WHITE)),
        on("pictures", "/one-pixel.png", size=(1, 1), corners=(RED,) * 4),
    ]


def _no_pictures() -> list[Case]:
    others = (
        "page.html",
        "drawing.svg",
        "paper.pdf",
        "program.eps",
        "words.txt",
        "answer.json",
        "sound.webp",
        "still.avif",
        "icon.ico",
        "empty.jpg",
        "one-byte.jpg",
        "zeros.jpg",
    )
    broken = (
        "noise.jpg",
        "magic-only.png",
        "head-only.jpg",
        "cut.jpeg",
        "cut-progressive.jpg",
        "no-end.jpg",
        "cut-before-a-film.jpg",
        "cut.png",
        "cut.webp",
        "cut.gif",
        "cut.bmp",
        "cut.tiff",
        "script.gif",
        "wrong-checksum.png",
        "endless-chunk.png",
        "no-size.gif",
    )
    return [
        *(on("files", f"/{name}", "not_an_image") for name in others),
        *(on("files", f"/{name}", "undecodable", is_broken=True) for name in broken),
    ]


def _bombs() -> list[Case]:
    forms = ("png", "jpg", "gif", "webp", "bmp", "tiff")
    frames = tuple(f"/frames.{form}" for form in ("gif", "webp", "png", "tiff"))
    small = ((1, 8), ((BLACK),) * 4)
    return [
        *(on("bombs", f"/lying.{form}", "too_large", also=_broken(form)) for form in forms),
        on("bombs", "/real.png", "too_large"),
        *(on("bombs", path, "too_many_frames") for path in frames),
        *(
            on("bombs", f"/{name}", also[0], also=also[1:])
            for name in bombs_of(100_000)
            for also in [_BOMBS.get(name, ("undecodable",))]
        ),
        *(
            on(
                "bombs",
                f"/{name}.png",
                "undecodable",
                also=(None,),
                size=small[0],
                corners=small[1],
            )
            for name in ("profile", "text")
        ),
        on("bombs", "/scans.jpg", "undecodable"),
    ]


_BOMBS = {
    **dict.fromkeys(("pages.tiff", "pixels.gif", "empty.webp"), ("too_many_frames",)),
    "packed.jpg": ("not_an_image",),
}


def _broken(form: str) -> tuple[str, ...]:
    """A WebP that lies about its canvas may be found out before its size is looked at."""
    return ("undecodable",) if form == "webp" else ()
