"""The page that describes the HTTP interface to people. It fetches nothing: FastAPI's own loads a script from a CDN."""

import re
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
html { color-scheme: light dark; background: light-dark(#fff, #14161a); color: light-dark(#1c1f26, #e8e9ec); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1.5rem .25rem 0; vertical-align: top; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: 4px; }
a { color: light-dark(#00508f, #8cc8ff); }
</style>
<main>
<h1>$title</h1>
<p>$about</p>
<h2>Paths</h2>
<table><tr><th>Method<th>Path<th>Answer</tr>$paths</table>
<h2>Ask it</h2>
<p>One record:</p>
<pre tabindex="0">curl -s -H 'Content-Type: application/octet-stream' ${address}predict \\
    --data-binary @FILE</pre>
<p>Several records, each as base64 (or for a text model as the text itself):</p>
<pre tabindex="0">curl -s -H 'Content-Type: application/json' ${address}predict \\
    -d '{"dataframe_records": [{"$column": "BASE64"}, {"$column": "BASE64"}]}'</pre>
<p><a href="openapi.json">openapi.json</a> describes all of this for programs, with the statuses of a refusal.</p>
</main>
""")


def interface_page(interface: Mapping[str, Any], column: str, address: str) -> str:
    """Return the page as HTML.

    Args:
        interface: As OpenAPI describes it.
        column: Of the model's input.
        address: Of the server as the browser knows it, with a slash at its end.
    """
    rows = [
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(facts['summary'])}</td></tr>"
        for path, methods in interface["paths"].items()
        for method, facts in methods.items()
    ]
    return _PAGE.substitute(
        title=escape(interface["info"]["title"]),
        about=re.sub(r"`(.*?)`", r"<code>\1</code>", escape(interface["info"]["description"])),
        paths="\n".join(rows),
        column=escape(column),
        address=escape(address),
    )
