"""`python -m components.store.bootstrap`: makes the store's bucket where it is missing and, if asked, its one expiry rule.

Environment: `STORE` (minio://bucket/prefix), `S3_ENDPOINT`, `S3_ACCESS_KEY`, `S3_SECRET_KEY`, and `EXPIRE_SCRATCH_DAYS`
for a rule that lets the bucket delete what is older under `<prefix>/scratch/`. Other rules stay as they are; without
the variable, all do. Running it again changes nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from xml.etree import ElementTree

from components.core.errors import ParameterError
from components.core.job import run_job
from components.store.s3 import MinioBackend

log = logging.getLogger(__name__)
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def bootstrap(environment: Mapping[str, str]) -> None:
    """Make the bucket, then the rule.

    Raises:
        ParameterError: a variable is missing or wrong, or the keys may not do this.
        TryAgainError: the store does not answer.
    """
    uri = environment.get("STORE", "")
    if not uri.startswith("minio://"):
        raise ParameterError(
            f"STORE={uri!r} is no bucket", source="environment", remedy="set STORE=minio://bucket/prefix"
        )
    days = _days(environment.get("EXPIRE_SCRATCH_DAYS", ""))
    backend = MinioBackend.from_environment(uri)
    log.info("bucket %s %s", backend.bucket, "made" if backend.make_bucket() else "is there")
    if days is None:
        return
    prefix = f"{backend.prefix}/scratch/" if backend.prefix else "scratch/"
    document = with_expiry(backend.lifecycle(), prefix, days)
    if document is not None:
        backend.set_lifecycle(document)
    log.info("%s expires after %d days%s", prefix, days, "" if document else ", as before")


def _days(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(
            f"EXPIRE_SCRATCH_DAYS={text!r}", source="environment", remedy="give whole days, 1 or more, or leave it out"
        )
    return int(text)


def with_expiry(document: bytes | None, prefix: str, days: int) -> bytes | None:
    """A bucket's lifecycle configuration with our rule for `prefix` in it; None when it says that already.

    Args:
        document: the configuration as the server spells it, None for no rules. Elements that we know nothing of are
            kept.
        prefix: what expires, from the bucket's root, with a slash at its end.
        days: days after the last write.
    """
    # the store's own answer to our keys: it holds the data, so its XML is trusted as well
    root = ElementTree.fromstring(document) if document else ElementTree.Element("LifecycleConfiguration")
    for element in root.iter():  # written back under the one namespace, without prefixes
        element.tag = element.tag.rpartition("}")[2]
    name = f"motion-enhancer: {prefix}"
    rule = _rule(name, prefix, days)
    for found in [item for item in root.findall("Rule") if item.findtext("ID") == name]:
        if _said(found) == _said(rule):
            return None
        root.remove(found)
    root.append(rule)
    root.set("xmlns", _NAMESPACE)
    return bytes(ElementTree.tostring(root))


def _rule(name: str, prefix: str, days: int) -> ElementTree.Element:
    rule = ElementTree.Element("Rule")
    ElementTree.SubElement(rule, "ID").text = name
    ElementTree.SubElement(rule, "Status").text = "Enabled"
    ElementTree.SubElement(ElementTree.SubElement(rule, "Filter"), "Prefix").text = prefix
    ElementTree.SubElement(ElementTree.SubElement(rule, "Expiration"), "Days").text = str(days)
    return rule


def _said(rule: ElementTree.Element) -> list[tuple[str, str]]:
    """What a rule says, whatever the order of its elements."""
    return sorted((element.tag, (element.text or "").strip()) for element in rule.iter())


if __name__ == "__main__":
    sys.exit(run_job("bootstrap", lambda: bootstrap(os.environ)))
