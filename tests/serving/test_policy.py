"""What a browser may do with the page."""

import base64
import hashlib

from conftest import REPOSITORY

from tpi_mpi.serving.page.policy import content_security_policy


def source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_only_what_is_in_the_page_may_run():
    policy = content_security_policy("<style>\na {}\n</style><p>ä</p><script>\nb('ä')\n</script>")
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["style-src"] == source("\na {}\n")
    assert directives["script-src"] == source("\nb('ä')\n")
    assert directives["default-src"] == directives["frame-ancestors"] == "'none'"
    assert directives["connect-src"] == "'self'"


def test_a_page_without_script_may_run_none():
    assert "script-src 'none'; " in content_security_policy("<p></p>")


def test_the_page_has_one_style_and_one_script():
    policy = content_security_policy((REPOSITORY / "tpi_mpi/serving/page/index.html").read_text(encoding="utf-8"))
    assert policy.count("'sha256-") == 2
