"""The interface, and the manifest for KServe that names it."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines.serving.app import Limits, build
from pipelines.serving.following import Following
from pipelines.serving.interface_page import interface_page
from pipelines.serving.loading import Loaded
from tests.support.browser import browser
from tests.support.command import ROOT


@pytest.fixture(scope="module")
def interface() -> dict[str, Any]:
    loaded = Loaded("toy", "1", "point", [], "none", lambda _records: [])
    limits = Limits(body=1, records=1, requests=1, batch=1, wait=0, poll=1)
    return build(Following(loaded, "champion", lambda _version: loaded), limits).openapi()


@pytest.fixture(scope="module")
def paths(interface: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = interface["paths"]
    return found


def test_the_interface_describes_itself(paths: dict[str, Any]) -> None:
    """Every path, the kinds of bodies, and the statuses of a refusal."""
    assert {"/predict", "/invocations", "/ping", "/health/live", "/health/ready", "/metrics"} == paths.keys()
    post = paths["/predict"]["post"]
    assert {"application/json", "application/octet-stream", "image/*"} <= post["requestBody"]["content"].keys()
    assert {"200", "400", "408", "413", "415", "500", "503"} <= post["responses"].keys()


def test_the_page_fetches_nothing_and_trusts_no_text(interface: dict[str, Any]) -> None:
    """It names every path, loads nothing, and shows a name or a host as text, whatever is in it."""
    page = interface_page(interface, "<b>", "http://<i>/")
    assert all(f"<code>{path}</code>" in page for path in interface["paths"])
    assert not re.search(r"<script|<link|<img|(src|href)=.https?:|url\(|<b>|<i>", page)
    assert "http://&lt;i&gt;/predict" in page
    assert "<code>inputs</code>" in page
    assert "`" not in page


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_keyboards_and_screen_readers_reach_the_page(interface: dict[str, Any], tmp_path: Path, *, dark: bool) -> None:
    """axe-core finds nothing on it, on a phone either."""
    (tmp_path / "docs.html").write_text(interface_page(interface, "image", "http://127.0.0.1:8080/"))
    with browser() as page:
        page.open((tmp_path / "docs.html").as_uri(), width=390, height=800, dark=dark)
        assert page.violations() == []


def test_the_manifest_for_kserve_starts_the_server(paths: dict[str, Any]) -> None:
    """Its arguments are options of the command, and its probes ask paths that are there, at the port it listens at."""
    from pipelines.cli import app

    manifest = yaml.safe_load((ROOT / "docker/kserve/inference-service.yaml").read_text())
    predictor = manifest["spec"]["predictor"]
    [container] = predictor["containers"]
    name, model, *options = container["args"]
    command: Any = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]  # a group
    asked = command.make_context(name, [model, *options]).params
    assert (container["command"], asked["host"]) == (["thawline"], "0.0.0.0")  # noqa: S104 - in a pod
    [port] = container["ports"]
    assert asked["port"] == port["containerPort"]
    assert str(asked["port"]) == manifest["metadata"]["annotations"]["prometheus.io/port"]
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["path"] for probe in probes} <= paths.keys()
    assert {probe["port"] for probe in probes} == {port["name"]}
