"""What a browser may do with the page: apply its own style, run its own script, and ask the server it came from."""

import base64
import hashlib
import re


def content_security_policy(html: str) -> str:
    """The Content-Security-Policy header of a page, for which every other style, script or address is refused.

    html: its text, with line feeds alone at the ends of lines, as browsers hash it.
    """
    allowed = {
        "default-src": "'none'",
        "style-src": _hashes("style", html),
        "script-src": _hashes("script", html),
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{directive} {sources}" for directive, sources in allowed.items())


def _hashes(tag: str, html: str) -> str:
    """The sources that allow exactly the inline elements of a kind that are in the page."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
