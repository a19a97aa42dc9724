"""AWS's tools get new credentials whenever theirs expire, each by a new token of the workflow's identity."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.deploy.environment import ROOT
from tests.github import WORKFLOWS, evaluated

CredentialRetrievalError = pytest.importorskip("botocore.exceptions").CredentialRetrievalError
botocore_session = pytest.importorskip("botocore.session", reason="botocore is in the e2e and s3 extras")

LIFETIME_SEC = 3.0
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>key-of-{token}</AccessKeyId>
<SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken><Expiration>{expiration}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


class Identity(BaseHTTPRequestHandler):
    """GitHub's tokens, each another one, and an STS whose sessions last for seconds."""

    tokens = 0

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "bearer runner"
        assert self.path.endswith("&audience=sts.amazonaws.com")
        Identity.tokens += 1
        self._answer(json.dumps({"value": f"token-{Identity.tokens}"}))

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        assert fields["Action"] == ["AssumeRoleWithWebIdentity"]
        assert fields["RoleArn"] == ["arn:aws:iam::123456789012:role/retraining"]
        expiration = (datetime.now(UTC) + timedelta(seconds=LIFETIME_SEC)).isoformat()
        self._answer(STS.format(token=fields["WebIdentityToken"][0], expiration=expiration))

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment of a workflow's job, in the project's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{address}/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
        "AWS_ENDPOINT_URL_STS": address,
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/retraining",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": "deploy/aws.config",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("identity")
def test_credentials_that_expire_are_fetched_again_with_a_new_token() -> None:
    credentials: Any = botocore_session.get_session().get_credentials()
    first = credentials.get_frozen_credentials().access_key
    time.sleep(LIFETIME_SEC)
    second = credentials.get_frozen_credentials().access_key
    assert first.startswith("key-of-token-")
    assert second.startswith("key-of-token-")
    assert first != second


@pytest.mark.usefixtures("identity")
def test_a_job_without_the_permission_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    with pytest.raises(CredentialRetrievalError, match=r"ACTIONS_ID_TOKEN_REQUEST_TOKEN: not set.*id-token: write"):
        botocore_session.get_session().get_credentials()


def test_aws_tools_find_the_region_that_each_job_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 reads AWS_DEFAULT_REGION alone, unlike the tools of other languages (botocore.configprovider)."""
    jobs = [
        job["env"] for it in WORKFLOWS.values() for job in it["jobs"].values() if "AWS_ROLE_ARN" in job.get("env", {})
    ]
    assert jobs
    for given in jobs:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        for name, value in given.items():
            if name.endswith("REGION"):
                monkeypatch.setenv(name, evaluated(value, {"vars.AWS_REGION": "eu-north-1"}))
        assert botocore_session.get_session().get_config_variable("region") == "eu-north-1"
