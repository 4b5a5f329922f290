"""An HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from dmcp_deploy import __version__
from dmcp_deploy.report.markup import esc


def document(title: str, body: str) -> str:
    """Returns a whole page under a title.

    Nothing is fetched: the policy in its head lets the browser load nothing and run only the
    page's own script.

    Args:
        title: Its title, as text.
        body: What stands below the title, as HTML.
    """
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{esc(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{esc(title)}</h1>
{body}
</main>
<footer>Written by dmcp-deploy {esc(__version__)}. FLOPs are multiply-adds of convolution and
linear layers for one image.</footer>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("dmcp_deploy.report").joinpath(name).read_text(encoding="utf-8")
