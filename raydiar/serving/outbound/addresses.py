"""Which URLs of clients may be opened: the wall between them and the network that we stand in.

What is refused is a list of networks of our own rather than `ipaddress.is_global`, whose answers
change with the patch release of Python. For IPv6 the list is turned round: only the part of the
space that is handed out for the internet, less its special blocks, is allowed, and so whatever
embeds an IPv4 address (mapped, NAT64, 6to4, Teredo) is out. A name is judged by all addresses that
it resolves to, and then one of exactly these is connected to (`raydiar.serving.outbound.fetching`).

Cluster nodes with public addresses of their own are public by this list: firewall them.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from yarl import URL

from raydiar.errors import ConfigError, FetchFailed, UrlRefused
from raydiar.storage import display_name, is_remote

# https://www.iana.org/assignments/iana-ipv4-special-registry: what is not globally reachable
_REFUSED_IPV4 = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent, a public address that leads inside
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
_INTERNET_IPV6 = ip_network("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry, within 2000::/3
_REFUSED_IPV6 = [
    ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
_MAX_URL = 8192
_NAME = re.compile(r"[A-Za-z0-9._-]*[A-Za-z-][A-Za-z0-9._-]*")  # not a number, or a slip in one
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public internet."""
    if address.version == 4:
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _INTERNET_IPV6 and not any(address in net for net in _REFUSED_IPV6)


@dataclass(frozen=True)
class FetchPolicy:
    """What may be opened for clients, and at what cost.

    Attributes
    ----------
    allow_hosts : tuple of str
        Names ("audio.internal"), addresses, and networks ("10.0.0.0/8") that are allowed though
        they are not public. A name is trusted with whatever address it resolves to.
    allow_buckets : tuple of str
        Prefixes of object stores ("s3://bucket/prefix"), read with the server's own credentials:
        every client can then read all that lies under them.
    ports : tuple of range
        80 and 443, and from 1024 on, where media servers live without root. The other ports below
        1024 are those of mail, SSH, DNS and the like, which take commands from the text of an
        HTTP request.
    max_bytes : int
    max_seconds : float
        For all of a fetch, retries included.
    max_redirects : int
    connect_seconds, stall_seconds : float
        For one connection, and for silence on it.
    retry_delays : tuple of float
        Seconds before each further try of a fetch that failed for the moment.

    Raises
    ------
    ConfigError
        If an allowed host or bucket is not one.
    """

    allow_hosts: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()
    ports: tuple[range, ...] = (range(80, 81), range(443, 444), range(1024, 65536))
    max_bytes: int = 2**30
    max_seconds: float = 600.0
    max_redirects: int = 3
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    retry_delays: tuple[float, ...] = (1.0, 4.0)

    def __post_init__(self):
        for host in self.allow_hosts:
            if _network(host) is None and not _NAME.fullmatch(host):
                raise ConfigError(
                    f"allow_hosts: {host!r} is neither a host name (without scheme and port, "
                    "in ASCII) nor a network such as 10.0.0.0/8."
                )
        for bucket in self.allow_buckets:
            scheme, _, path = bucket.partition("://")
            if not is_remote(bucket) or scheme in ("http", "https") or not path.strip("/"):
                raise ConfigError(
                    f"allow_buckets: {bucket!r} is not a bucket such as s3://bucket/prefix."
                )

    @cached_property
    def _names(self) -> set[str]:
        return {_bare(host) for host in self.allow_hosts if _network(host) is None}

    @cached_property
    def _networks(self) -> list:
        return [network for host in self.allow_hosts if (network := _network(host))]

    def allows_address(self, host: str, address: str) -> bool:
        """Whether a host may be connected to at this address."""
        if _bare(host) in self._names:
            return True
        ip = ip_address(address)
        return any(ip in network for network in self._networks) or is_public(ip)

    def allows_bucket(self, url: str) -> bool:
        """Whether a URL lies under an allowed bucket."""
        # "::" chains file systems in fsspec, whatever stands behind it
        if "::" in url or {".", ".."} & set(url.split("/")):
            return False
        return any(url.startswith(bucket.rstrip("/") + "/") for bucket in self.allow_buckets)


def check_url(url: str, policy: FetchPolicy) -> None:
    """Check a URL as far as that goes without asking the network: when a request comes in.

    Raises
    ------
    UrlRefused
    """
    if not policy.allows_bucket(url):
        parse_url(url, policy)


def parse_url(url: str, policy: FetchPolicy) -> URL:
    """Take an http(s) URL apart as the client library will, and check what it says.

    Raises
    ------
    UrlRefused
        For another scheme, user and password, a port out of policy, an address that is not
        public, and an address in decimal, octal or hexadecimal form.
    """
    label = url_label(url)
    if len(url) > _MAX_URL or "\\" in url or any(c <= " " or c == "\x7f" for c in url):
        raise UrlRefused(
            f"{label}: not a URL (too long, or with spaces, backslashes or control characters)."
        )
    try:
        # what is encoded stays as it is: a signature may cover it
        parsed = URL(url, encoded=url.isascii())
        host, port = parsed.raw_host, parsed.port
        userinfo = "@" in parsed.raw_authority
    except ValueError as error:  # also UnicodeError
        raise UrlRefused(f"{label}: not a URL.") from error
    if parsed.scheme not in ("http", "https"):
        raise UrlRefused(f"{label}: only http:// and https:// URLs can be opened here.")
    # brackets belong to IPv6 addresses, and to them alone
    bracketed = "[" in parsed.raw_authority
    if port is None or not host or not _HOST.fullmatch(host) or bracketed != (":" in host):
        raise UrlRefused(f"{label}: the URL names no host that can be looked up.")
    if userinfo:
        raise UrlRefused(f"{label}: a URL must not hold a user or password. Use a signed URL.")
    if not any(port in ports for ports in policy.ports):
        raise UrlRefused(f"{label}: port {port} is not allowed here.")
    if address := _numeric(host):
        if not _is_canonical(host):
            raise UrlRefused(f"{label}: write the address in its usual form.")
        if not policy.allows_address(host, address):
            raise not_public(label)
    return parsed


async def resolve(url: URL, policy: FetchPolicy) -> list[str]:
    """Addresses of a URL's host, every one of which may be connected to.

    Raises
    ------
    UrlRefused
        If one of them may not.
    FetchFailed
        If the name has no address.
    """
    label = url_label(str(url))
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.raw_host, url.port, type=socket.SOCK_STREAM
        )
    except socket.gaierror as error:
        again = error.errno == socket.EAI_AGAIN
        raise FetchFailed(f"{label}: the host's name could not be resolved.", again) from error
    except UnicodeError as error:
        raise UrlRefused(f"{label}: the URL names no host that can be looked up.") from error
    addresses = [address[0] for *_, address in found]
    if not all(policy.allows_address(url.raw_host, address) for address in addresses):
        raise not_public(label)
    return addresses


def not_public(label: str) -> UrlRefused:
    # without the address: names of an inner network must not be looked up through us
    return UrlRefused(
        f"{label}: the host is not on the public internet, and not one that the operator allows."
    )


def url_label(url: str) -> str:
    """A URL in messages: short, without user, password and signature."""
    try:
        label = display_name(url)
    except ValueError:
        return "the URL"
    label = label if len(label) <= 200 else label[:200] + "…"
    return "".join(c if c.isprintable() else "�" for c in label)  # logs are lines


def _network(host: str):
    try:
        return ip_network(host, strict=False)
    except ValueError:
        return None


def _bare(host: str) -> str:
    return host.rstrip(".").lower()


def _numeric(host: str) -> str | None:
    """The address that a host is in any notation that the system understands, without DNS."""
    try:
        found = socket.getaddrinfo(
            host.rstrip("."), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (socket.gaierror, UnicodeError):
        return None
    return found[0][4][0]


def _is_canonical(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
