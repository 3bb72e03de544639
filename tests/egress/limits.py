"""Limits that everything harmful of the hostile web passes by far, and what a process has used of memory."""

from pathlib import Path

from neuclip.egress.config import EgressConfig
from tests.servers.hostile import MAX_BODY_BYTES, Web


def strict(web: Web) -> EgressConfig:
    """Return them for a running web, which alone may be visited."""
    return EgressConfig(
        allow_hosts=web.allow_hosts,
        allow_ports=[80, 443, web.ports["canary"]],  # so that its address alone keeps it shut
        dns_servers=[web.names.address],
        timeout_s=1,
        deadline_s=3,
        retries=1,
        max_redirects=5,
        max_body_bytes=MAX_BODY_BYTES,
        max_image_pixels=1_000_000,
        max_frames=100,
        host_concurrency=16,
        host_requests_per_s=0,
    )


def peak_memory_bytes(pid: int) -> int:
    """Return the most that a process ever held at once."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
